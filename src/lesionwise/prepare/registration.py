"""Rigid registration of two channels of one head by mutual information (SimpleITK), from several starts.

Coarse to fine, on grids whose voxels are averaged to about equal edges, so that thick slices are not thinned further.
World coordinates are RAS millimetres, as everywhere in the package; ITK's own (LPS) stay in `lesionwise.prepare.itk`
and in the transform file.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from lesionwise.errors import InputError
from lesionwise.geometry.affine import closest_axes, to_mm
from lesionwise.geometry.volume import Volume
from lesionwise.io.files import write_whole
from lesionwise.prepare.itk import LPS, simpleitk, to_itk
from lesionwise.types import Affine, MaskArray

BINS = 32
"""Bins per axis of the joint histogram."""

START_DEGREES = (-12.0, 0.0, 12.0)
"""Turns about each axis that are tried as starts; the optimiser finds what is between and a little beyond."""

KEPT_STARTS = 4
"""Best starts that are optimised on the coarsest grid."""


@dataclass(frozen=True)
class PyramidLevel:
    """One step from coarse to fine: voxels are averaged to about `edge_mm`; the optimiser's steps shrink from
    `first_step` to `last_step`, about mm."""

    edge_mm: float
    first_step: float
    last_step: float
    iterations: int = 200


RELAXATION = 0.8
"""What a step is multiplied by when the gradient turns back. With the usual 0.5 the climb ends in the narrow valley between
rotation and translation: 2 mm off where 0.8 is .25 mm off (a head moved by 15 mm and 15 degrees)."""

SAMPLES = 30_000
"""Voxels inside the mask that are looked at, at most; drawn with a fixed seed."""

LEVELS = (PyramidLevel(4.0, 2.0, 0.02), PyramidLevel(2.0, 0.5, 0.005), PyramidLevel(1.0, 0.2, 0.001))


@dataclass(frozen=True, eq=False)
class Rigid:
    """A rigid motion between the worlds of two channels.

    `matrix` (4, 4) takes a point of the fixed channel's world (RAS mm) to the same anatomy in the moving channel's
    world: the direction in which images are resampled, and which ITK's transform files hold. `information_before` and
    `information_after` are the channels' mutual information in nats within the brain (higher is better) by the headers
    alone and by this motion, `information_mirrored` that of the best motion of the moving channel's mirror image: lower,
    unless one of the two is stored left for right.
    """

    matrix: Affine
    information_before: float
    information_after: float
    information_mirrored: float

    @property
    def degrees(self) -> float:
        """Angle of its rotation."""
        cosine = (np.trace(self.matrix[:3, :3]) - 1) / 2
        return float(np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0))))

    def moved_mm(self, points: np.ndarray) -> np.ndarray:
        """By how many mm the headers alone misplaced each of the points (n, 3) of the fixed world."""
        return np.linalg.norm(to_mm(points, self.matrix) - points, axis=1)


def register(fixed: Volume, moving: Volume, *, head: MaskArray, brain: MaskArray) -> Rigid:
    """The rigid motion under which two single-channel volumes of one head share most information.

    Starts are the headers and equal centres of mass, each with all turns of `START_DEGREES`. The two coarse grids look at
    the whole head of the fixed channel, the finest at its `brain` alone: jaw and neck move against the brain. For the
    mirror image of the moving channel a coarse motion suffices. Equal input gives equal results. Mutual
    information: Mattes et al. 2003 (10.1109/TMI.2003.809072).

    Raises InputError if the two have nothing in common.
    """
    search = _Search(fixed, moving, head, brain)
    motion = search.fine(search.coarse(kept=KEPT_STARTS))
    reflected = _Search(fixed, mirrored(moving), head, brain)
    before, after = search.information(search.start(np.zeros(3), (0.0, 0.0, 0.0))), search.information(motion)
    if not after > 0:
        raise InputError(
            f"Expected two images of one head, but {moving.channels[0]} shares nothing with {fixed.channels[0]}."
        )
    return Rigid(_matrix(motion), before, after, reflected.information(reflected.coarse(kept=1)))


def mirrored(volume: Volume) -> Volume:
    """The mirror image, left for right, about the middle of the volume's own grid."""
    axis = closest_axes(volume.affine)[0].index(0)
    return replace(volume, data=np.ascontiguousarray(np.flip(volume.data, axis=1 + axis)))


def write_transform(path: Path, rigid: Rigid) -> None:
    """An ITK transform file in text (LPS mm, from the fixed to the moving channel's points), written whole."""
    sitk = simpleitk()
    lps = LPS @ rigid.matrix @ LPS
    transform = sitk.AffineTransform(lps[:3, :3].ravel().tolist(), lps[:3, 3].tolist())
    with write_whole(path) as temporary:
        sitk.WriteTransform(transform, str(temporary))


def read_transform(path: Path) -> Affine:
    """The matrix (4, 4) in RAS mm of an ITK file of a linear transform."""
    transform = simpleitk().ReadTransform(str(path))
    return _matrix(transform)


def _matrix(transform: Any) -> Affine:
    """Matrix in RAS mm of any linear ITK transform, from where it takes four points."""
    origin = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
    lps = np.eye(4)
    for axis in range(3):
        point = np.zeros(3)
        point[axis] = 100.0
        lps[:3, axis] = (np.array(transform.TransformPoint(point.tolist())) - origin) / 100.0
    lps[:3, 3] = origin
    return LPS @ lps @ LPS


class _Search:
    """The motion between two heads, sought on coarser and finer grids."""

    def __init__(self, fixed: Volume, moving: Volume, head: MaskArray, brain: MaskArray) -> None:
        self.fixed, self.moving = to_itk(fixed.data[0], fixed.affine), to_itk(moving.data[0], moving.affine)
        self.head, self.brain = (to_itk(mask.astype(np.float32), fixed.affine) for mask in (head, brain))
        self.centre = _centre_lps(head, fixed.affine)
        self.offset = _centre_lps(_capped(moving), moving.affine) - _centre_lps(_capped(fixed), fixed.affine)

    def start(self, shift_lps: np.ndarray, degrees: Sequence[float]) -> Any:
        """A motion that turns about the fixed head's centre, then shifts by LPS mm."""
        transform = simpleitk().Euler3DTransform()
        transform.SetCenter(self.centre.tolist())
        transform.SetRotation(*np.radians(degrees).tolist())
        transform.SetTranslation(shift_lps.tolist())
        return transform

    def coarse(self, *, kept: int) -> Any:
        """The best motion by the head on the coarsest grid, of the `kept` most promising starts."""
        first = self._on(LEVELS[0], self.head)
        starts = [
            self.start(shift, degrees)
            for shift in (np.zeros(3), self.offset)
            for degrees in product(START_DEGREES, repeat=3)
        ]
        climbed = [first.optimise(start) for start in first.best(starts, kept)]
        return first.best(climbed, 1)[0]

    def fine(self, motion: Any) -> Any:
        """The motion improved by the head, then by the brain alone."""
        return self._on(LEVELS[2], self.brain).optimise(self._on(LEVELS[1], self.head).optimise(motion))

    def information(self, motion: Any) -> float:
        """Mutual information, in nats, of the two within the brain; -inf if they do not meet."""
        return self._on(LEVELS[1], self.brain).information(motion)

    def _on(self, level: PyramidLevel, mask: Any) -> "_Comparison":
        fixed, moving = (_averaged(image, level.edge_mm) for image in (self.fixed, self.moving))
        return _Comparison(fixed, moving, _around(mask, level.edge_mm), level)


class _Comparison:
    """Mutual information of two images inside a mask of the first."""

    def __init__(self, fixed: Any, moving: Any, mask: Any, level: PyramidLevel) -> None:
        self.fixed, self.moving, self.mask, self.level = fixed, moving, mask, level
        self.inside = int(simpleitk().GetArrayViewFromImage(mask).sum())

    def _method(self) -> Any:
        sitk = simpleitk()
        method = sitk.ImageRegistrationMethod()
        method.SetNumberOfThreads(1)  # the order of a sum must not depend on the machine
        method.SetMetricAsMattesMutualInformation(BINS)
        method.MetricUseMovingImageGradientFilterOff()  # a filtered image of all voxels for the few that are looked at
        method.MetricUseFixedImageGradientFilterOff()
        method.SetMetricFixedMask(self.mask)
        if self.inside > SAMPLES:
            method.SetMetricSamplingStrategy(method.RANDOM)
            # the share is one of all voxels, of which those in the mask are drawn
            method.SetMetricSamplingPercentage(SAMPLES / self.inside, 1)
        method.SetInterpolator(sitk.sitkLinear)
        return method

    def information(self, transform: Any) -> float:
        """Mutual information in nats; -inf where the two do not overlap."""
        method = self._method()
        method.SetInitialTransform(transform, False)
        try:
            return -float(method.MetricEvaluate(self.fixed, self.moving))
        except RuntimeError:  # "all samples map outside": this start misses the other image
            return -np.inf

    def best(self, transforms: Any, count: int) -> list[Any]:
        """The `count` transforms of the highest information, best first."""
        return sorted(transforms, key=self.information, reverse=True)[:count]

    def optimise(self, transform: Any) -> Any:
        """Climbs from a transform; where the climb cannot go on, what it has reached."""
        sitk = simpleitk()
        method = self._method()
        level = self.level
        method.SetOptimizerAsRegularStepGradientDescent(
            learningRate=level.first_step,
            minStep=level.last_step,
            numberOfIterations=level.iterations,
            relaxationFactor=RELAXATION,
            gradientMagnitudeTolerance=1e-6,
        )
        method.SetOptimizerScalesFromPhysicalShift()
        moving = sitk.Euler3DTransform(transform)
        method.SetInitialTransform(moving, True)
        try:
            method.Execute(self.fixed, self.moving)
        except RuntimeError:
            return transform
        return moving


def _averaged(image: Any, edge_mm: float) -> Any:
    factors = [max(1, round(edge_mm / size)) for size in image.GetSpacing()]
    return simpleitk().BinShrink(image, factors)


def _around(mask: Any, edge_mm: float) -> Any:
    """The mask, a little wider, on an averaged grid: contrast is at its border."""
    wide = _averaged(simpleitk().SmoothingRecursiveGaussian(mask, 3.0), edge_mm) > 0.1
    return simpleitk().Cast(wide, simpleitk().sitkUInt8)


def _capped(volume: Volume) -> np.ndarray:
    """Intensities (i, j, k) without the few that would outweigh the rest."""
    return np.clip(volume.data[0], 0, np.percentile(volume.data[0], 99))


def _centre_lps(weights: np.ndarray, affine: Affine) -> np.ndarray:
    """Centre of mass in LPS mm."""
    return (LPS @ affine @ np.append(ndimage.center_of_mass(weights), 1.0))[:3]
