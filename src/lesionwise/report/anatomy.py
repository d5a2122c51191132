"""What a reader checks by eye: where a lesion lies, and how it stands out from the tissue around it.

No atlas and no segmentation: places are judged from intensity and position by the rules below, and the page says so.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from lesionwise.geometry.affine import to_mm
from lesionwise.report.profile import Neighbourhood
from lesionwise.report.scene import ScanView

AROUND_MM = (1.0, 4.0)
"""Distance (a, b] outside a lesion at which its surroundings are read."""

PERIVENTRICULAR_MM = 3.0
SURFACE_MM = 6.0
MIDLINE_MM = 6.0
"""Closer than this to the middle of the head a side is not named."""

LOW, BEHIND = 0.3, 0.55
"""Below this share of the brain's height and behind this share of its length lie brainstem and cerebellum."""

STRIPPED_ML = 2000.0
"""A brain holds less than this, a head with its scalp more."""

FLUID_SD, FLUID_DEPTH_MM, FLUID_ML = -1.0, 15.0, 0.3


@dataclass(frozen=True)
class Facts:
    """A lesion's place ("" where it cannot be told), its side, and its contrast per channel in SD of the head."""

    place: str
    side: str
    contrast_sd: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class HeadAnatomy:
    """The head of a scene: depth below its surface and distance to deep fluid, on every `step`th voxel; how far it reaches.

    `low` and `high` (mm: right, front, up) are in the patient's directions, not the grid's: slices are often tilted.
    """

    scene: ScanView
    spread: Mapping[str, tuple[float, float]]
    stripped: bool
    step: int
    depth_mm: Float[np.ndarray, "i j k"]
    fluid_mm: Float[np.ndarray, "i j k"] | None
    low: np.ndarray
    high: np.ndarray

    @classmethod
    def of(cls, scene: ScanView) -> "HeadAnatomy | None":
        """None where the scene has no image, or they are empty."""
        if not scene.images:
            return None
        sizes = np.asarray(scene.voxel_sizes_mm)
        step = 2 if sizes.max() < 1.6 else 1
        coarse = {name: image[::step, ::step, ::step] for name, image in scene.images.items()}
        head = find_inside(next(iter(coarse.values())))
        if not head.any():
            return None
        volume_ml = float(head.sum() * np.prod(sizes * step) / 1000)
        depth = ndimage.distance_transform_edt(np.pad(head, 1), sampling=sizes * step)[1:-1, 1:-1, 1:-1]
        spread = {name: (float(image[head].mean()), float(image[head].std()) or 1.0) for name, image in coarse.items()}
        stripped = volume_ml < STRIPPED_ML
        dark = [(image - spread[name][0]) / spread[name][1] < FLUID_SD for name, image in coarse.items()]
        deep = FLUID_DEPTH_MM + (0.0 if stripped else 20.0)
        fluid = _large(head & (depth > deep) & np.logical_and.reduce(dark), FLUID_ML * 1000 / np.prod(sizes * step))
        distance = ndimage.distance_transform_edt(~fluid, sampling=sizes * step) if fluid.any() else None
        reached = to_mm(np.argwhere(head) * step, scene.affine)
        return cls(scene, spread, stripped, step, depth, distance, reached.min(axis=0), reached.max(axis=0))

    def facts(self, around: Neighbourhood, voxels: np.ndarray) -> Facts:
        """Of the lesion with these voxels (n, 3)."""
        shell = (around.distance_mm > AROUND_MM[0]) & (around.distance_mm <= AROUND_MM[1]) & ~around.others
        contrast = {}
        for name, image in self.scene.images.items():
            block = image[around.box.slices]
            if shell.any():
                contrast[name] = float((block[around.omega].mean() - np.median(block[shell])) / self.spread[name][1])
        return Facts(self._place(voxels), self._side(voxels), contrast)

    def _place(self, voxels: np.ndarray) -> str:
        at = tuple(np.minimum(voxels // self.step, np.asarray(self.depth_mm.shape) - 1).T)
        centre = to_mm(voxels.mean(axis=0, keepdims=True), self.scene.affine)[0]
        share = (centre - self.low) / np.maximum(self.high - self.low, 1)
        if self.stripped and share[2] < LOW and share[1] < BEHIND:
            return "infratentorial"
        if self.fluid_mm is not None and self.fluid_mm[at].min() <= PERIVENTRICULAR_MM + self.step:
            return "periventricular"
        if not self.stripped:
            return ""
        return "near the cortex" if self.depth_mm[at].min() <= SURFACE_MM else "deep white matter"

    def _side(self, voxels: np.ndarray) -> str:
        middle = (self.low[0] + self.high[0]) / 2
        across = float(to_mm(voxels.mean(axis=0, keepdims=True), self.scene.affine)[0, 0]) - middle
        return "near the midline" if abs(across) < MIDLINE_MM else "right" if across > 0 else "left"


def find_inside(image: np.ndarray) -> Bool[np.ndarray, "i j k"]:
    """The largest part of an image that is not background, with its holes filled."""
    bright = image > 0.08 * np.percentile(image, 99.5)
    return ndimage.binary_fill_holes(_large(bright, None))


def display_window(image: np.ndarray, sizes_mm: tuple[float, float, float]) -> tuple[float, float]:
    """Grey values shown black and white: 0.5th and 99.8th percentile of what lies deep in the head.

    Fat under an unstripped scalp is the brightest of a T1w: a window that holds it shows a brain that is nearly black.
    """
    step = 2
    coarse = image[::step, ::step, ::step]
    inside = find_inside(coarse)
    depth = ndimage.distance_transform_edt(np.pad(inside, 1), sampling=np.asarray(sizes_mm) * step)[1:-1, 1:-1, 1:-1]
    deepest = float(depth.max(initial=0.0))
    deep = coarse[depth > 0.35 * deepest] if deepest > 0 else coarse[coarse != 0]
    if deep.size < 20:
        deep = coarse[coarse != 0]
    if not deep.size:
        return 0.0, 1.0
    low, high = (float(value) for value in np.percentile(deep, [0.5, 99.8]))
    return (min(low, 0.0) if (image == 0).any() else low), (high if high > low else low + 1.0)


def _large(mask: np.ndarray, least: float | None) -> np.ndarray:
    """The components of at least `least` voxels; None: the largest alone."""
    labels, count = ndimage.label(mask)
    if not count:
        return mask
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    kept = sizes == sizes.max() if least is None else sizes >= least
    kept[0] = False
    return kept[labels]
