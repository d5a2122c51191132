"""Synthetic patients with a planted rule: a small brain, blobs in its white matter, and what makes a blob a lesion.

Every difference between a lesion and what is none is a `Stroke` that was added to one channel, so that it can be taken away
again exactly.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np
from scipy import ndimage

from lesionwise.geometry.distance import distance_to_mm
from lesionwise.geometry.volume import Case, ScanName, Volume
from lesionwise.phantom import CHANNELS, synthesise
from lesionwise.types import MaskArray, Shape

SIDE_VOX = 48
"""Edge of the cube that is cut out of a small synthetic brain; voxels are 1 mm."""
APART_MM = 15.0
"""Least distance between the centres of two blobs."""
AWAY_FROM_EDGE_VOX = 9
_WHITE = 1000.0
_TRIES = 400
_SIZES_MM = (1.0, 1.0, 1.0)


@dataclass(frozen=True, eq=False)
class Background:
    """A brain without lesions: `image` (channels, i, j, k), white matter near 1000, and where its tissue is."""

    image: np.ndarray
    head: MaskArray
    white: MaskArray
    ventricles: MaskArray
    affine: np.ndarray


@dataclass(frozen=True, eq=False)
class Stroke:
    """What was added to one channel (`change`, image units, i, j, k) and where it counts as being (`region`)."""

    name: str
    channel: int
    change: np.ndarray
    region: MaskArray

    @property
    def brightens(self) -> int:
        """1 if it made the channel brighter, -1 if darker."""
        return 1 if float(self.change[self.region].sum()) > 0 else -1


@dataclass(frozen=True, eq=False)
class PlantedBlob:
    """One planted blob: a lesion by the rule, or not (`kind` says which sort it is).

    `voxels` is its extent as a mask; `strokes` all that was drawn for it.
    """

    kind: str
    is_lesion: bool
    centre: tuple[int, int, int]
    mask: MaskArray
    strokes: tuple[Stroke, ...]


@dataclass(frozen=True, eq=False)
class Patient:
    """A scan, and all that is true about it."""

    background: Background
    image: np.ndarray
    blobs: tuple[PlantedBlob, ...]
    name: ScanName = field(default_factory=ScanName)

    @property
    def reference(self) -> MaskArray:
        """Voxels of lesions."""
        masks = [blob.mask for blob in self.blobs if blob.is_lesion]
        return np.any(masks, axis=0) if masks else np.zeros(self.image.shape[1:], dtype=bool)

    @property
    def case(self) -> Case:
        """The scan as the rest of the package takes it."""
        volume = Volume(self.image, self.background.affine, CHANNELS)
        tissue = {
            "white_matter": self.background.white & ~self._drawn_on,
            "grey_matter": self._rest,
            "csf": self.background.ventricles,
        }
        return Case(volume, self.background.head, self.reference, self.name, tissue)

    @property
    def _drawn_on(self) -> MaskArray:
        """Voxels that a blob or its strokes changed, and those beside them."""
        marks = [blob.mask | np.any([one.region for one in blob.strokes], axis=0) for blob in self.blobs]
        return ndimage.binary_dilation(np.any(marks, axis=0)) if marks else np.zeros_like(self.background.head)

    @property
    def _rest(self) -> MaskArray:
        return self.background.head & ~self.background.white & ~self.background.ventricles


@dataclass(frozen=True, eq=False)
class BlobPlace:
    """Where a blob may be drawn, and with what randomness."""

    background: Background
    centre: tuple[int, int, int]
    rng: np.random.Generator

    def ellipsoid(self, radius_mm: float, *, stretch: np.ndarray | None = None) -> np.ndarray:
        """Softly edged ellipsoid, 0..1."""
        return soft_ball(self.background.head.shape, self.centre, radius_mm, stretch)

    def stretch(self) -> np.ndarray:
        """How long its axes are, about 1."""
        return np.exp(self.rng.normal(0, 0.12, 3))


SpotsFn = Callable[[Background, bool], MaskArray]
Places = Mapping[bool, np.ndarray]
DrawFn = Callable[[BlobPlace, bool], tuple[str, np.ndarray, list[Stroke]]]
"""(site, is a lesion) -> its kind, its soft extent, its strokes."""


@lru_cache(maxsize=2)
def background(seed: int) -> Background:
    """A cube of the small synthetic brain `seed` without lesions and without things that look like them."""
    brain = synthesise(seed, size="small", n_lesions=0, mimics=False)
    rng = np.random.default_rng([seed, 41])
    start = [int(s) for s in rng.integers(5, 12, 3)]
    cut = tuple(slice(s, s + SIDE_VOX) for s in start)
    affine = brain.image.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ start
    image = np.ascontiguousarray(brain.image.data[(slice(None), *cut)], dtype=np.float32)
    head, tissue = brain.head[cut], brain.tissue[cut]
    ventricles = (brain.ventricle_mm[cut] < 1.0) & head
    return Background(image, head, (tissue == 3) & head & ~ventricles, ventricles, affine)


def without_ventricles_on_flair(ground: Background) -> Background:
    """The same brain with white matter in the place of the ventricles on FLAIR, so that T1w alone shows them."""
    image = ground.image.copy()
    image[0] = painted_white(image[0], ground.ventricles, ground.white)
    return replace(ground, image=image)


def painted_white(channel: np.ndarray, mask: MaskArray, white: MaskArray) -> np.ndarray:
    """The channel with the level of nearby white matter in the mask, softly at its border."""
    known = (white & ~mask).astype(np.float32)
    level = ndimage.gaussian_filter(channel * known, 5) / np.maximum(ndimage.gaussian_filter(known, 5), 1e-3)
    level = np.where(ndimage.gaussian_filter(known, 5) > 1e-3, level, channel[white].mean())
    soft = np.clip(ndimage.gaussian_filter(ndimage.binary_dilation(mask, iterations=2).astype(np.float32), 0.7), 0, 1)
    detail = channel - ndimage.gaussian_filter(channel, 1.5)
    detail = np.where(mask, detail * min(1.0, channel[white].std() / max(channel[mask].std(), 1.0)), 0.0)
    return (channel * (1 - soft) + (level + detail) * soft).astype(np.float32)


def soft_ball(shape: Shape, centre: Sequence[int], radius_mm: float, stretch: np.ndarray | None = None) -> np.ndarray:
    """Ellipsoid that falls from 1 to 0 over about a millimetre at its border."""
    axes = np.ones(3) if stretch is None else stretch
    r2 = np.zeros(shape, dtype=np.float32)
    for k, n in enumerate(shape):
        along = ((np.arange(n) - centre[k]) / axes[k]).astype(np.float32) ** 2
        r2 += along.reshape([-1 if a == k else 1 for a in range(3)])
    return (1 / (1 + np.exp(np.clip((np.sqrt(r2) - radius_mm) / 0.3, -30, 30)))).astype(np.float32)


def stroke(name: str, channel: int, soft: np.ndarray, amplitude: float) -> Stroke:
    """A soft shape times an amplitude, as a share of white matter."""
    return Stroke(name, channel, (soft * amplitude * _WHITE).astype(np.float32), soft > 0.5)


def plant(
    ground: Background,
    draw_fn: DrawFn,
    rng: np.random.Generator,
    *,
    places: Places,
    blobs: int = 6,
    name: ScanName | None = None,
) -> Patient:
    """Draws up to `blobs` blobs at `places` (`places_in`), lesions and others in turn, `APART_MM` from one another."""
    image = ground.image.copy()
    found: list[PlantedBlob] = []
    centres: list[tuple[int, int, int]] = []
    for number in range(blobs):
        wanted = number % 2 == 0
        centre = _free(places[wanted], centres, rng)
        if centre is None:
            continue
        centres.append(centre)
        kind, soft, strokes = draw_fn(BlobPlace(ground, centre, rng), wanted)
        found.append(PlantedBlob(kind, wanted, centre, (soft > 0.5) & ground.head, tuple(strokes)))
        for one in strokes:
            image[one.channel] += one.change * ground.head
    return Patient(ground, image, tuple(found), name or ScanName())


def places_in(ground: Background, spots_fn: SpotsFn) -> Places:
    """Where centres of lesions (True) and of other blobs (False) may lie: voxels (n, 3), away from the cube's faces."""
    inner = np.zeros(ground.head.shape, dtype=bool)
    inner[(slice(AWAY_FROM_EDGE_VOX, -AWAY_FROM_EDGE_VOX),) * 3] = True
    return {wanted: np.argwhere(spots_fn(ground, wanted) & inner) for wanted in (True, False)}


def deep_white(ground: Background, wanted: bool) -> MaskArray:
    """White matter some millimetres away from its border, away from ventricles."""
    free = distance_to_mm(ground.ventricles, _SIZES_MM, reach_mm=8.0) > 4.0
    return ndimage.binary_erosion(ground.white, iterations=2) & free


def _free(
    places: np.ndarray, taken: Sequence[tuple[int, int, int]], rng: np.random.Generator
) -> tuple[int, int, int] | None:
    """A place that is far enough from those taken; None if none was found."""
    for _ in range(_TRIES if len(places) else 0):
        i, j, k = places[int(rng.integers(len(places)))]
        if all(np.hypot(np.hypot(i - a, j - b), k - c) >= APART_MM for a, b, c in taken):
            return int(i), int(j), int(k)
    return None
