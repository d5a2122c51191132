"""One synthetic brain: the template bent by a random affine and an elastic map, with a cortex of its own."""

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from lesionwise.errors import InputError
from lesionwise.geometry.box import Box
from lesionwise.phantom.fields import blur, sheets, smooth_field
from lesionwise.phantom.templates import MAP_ORIGIN_MM, Templates, mni_templates
from lesionwise.types import Affine, Millimetres, Shape

FULL_SHAPE: Shape = (182, 218, 182)
FULL_ORIGIN_MM = (-90.0, -126.0, -72.0)
SMALL_SHAPE: Shape = (64, 64, 64)
SMALL_ORIGIN_MM = (-32.0, -46.0, -14.0)
_SMALL_CENTRE_MM = (0.0, -14.0, 17.0)
_SMALL_RADII_MM = (29.0, 29.0, 27.0)


@dataclass(frozen=True, eq=False)
class Anatomy:
    """Soft maps (i, j, k) float32 of one brain, inside `box` of a canvas of `shape`.

    `fluid`, `grey` and `white` are volume fractions that add up to 1. `ventricle_mm` is the signed distance to the
    lateral and third ventricles (negative inside), `depth_mm` that to the brain's surface (positive inside).
    """

    shape: Shape
    affine: Affine
    box: Box
    fluid: np.ndarray
    grey: np.ndarray
    white: np.ndarray
    ventricle_mm: np.ndarray
    depth_mm: np.ndarray
    deep: np.ndarray
    cerebellum: np.ndarray
    stem: np.ndarray
    insula: np.ndarray
    tract: np.ndarray

    @property
    def brain(self) -> np.ndarray:
        """Voxels inside the brain's surface, in the box."""
        return self.depth_mm > 0

    def on_canvas(self, values: np.ndarray) -> np.ndarray:
        """Puts an array of the box back on the canvas; 0 elsewhere."""
        canvas = np.zeros(self.shape, dtype=values.dtype)
        canvas[self.box.slices] = values
        return canvas


def check_size(size: str) -> None:
    """Raises InputError for a size that is not drawn."""
    if size not in ("full", "small"):
        raise InputError(f"Expected the size of a synthetic patient to be full or small, found {size!r}.")


def bend(rng: np.random.Generator, *, size: str = "full") -> Anatomy:
    """Draws a brain. `size="small"` is a 64 x 64 x 64 mm block around the ventricles, for tests."""
    templates = mni_templates()
    check_size(size)
    small = size == "small"
    shape, origin = (SMALL_SHAPE, SMALL_ORIGIN_MM) if small else (FULL_SHAPE, FULL_ORIGIN_MM)
    affine = np.eye(4)
    affine[:3, 3] = origin
    matrix, shift = _affine(rng, small=small)
    box = Box.whole(shape) if small else _brain_box(templates, matrix, shift, shape, origin)
    maps = _warped(rng, templates, matrix, shift, box, origin)
    values = dict(zip(templates.names, maps, strict=True))
    if small:
        values["depth_mm"] = np.minimum(values["depth_mm"], _egg_mm(box, origin))
    return Anatomy(shape, affine, box, **_tissue(rng, values))


def _affine(rng: np.random.Generator, *, small: bool) -> tuple[np.ndarray, np.ndarray]:
    """Matrix and shift from patient to template millimetres."""
    size = 1.0 if small else rng.uniform(0.84, 1.04)
    scales = size * np.exp(rng.normal(0, 0.03, 3))
    a, b, c = rng.normal(0, np.deg2rad(4), 3)
    turn = np.eye(3)
    for axis, angle in enumerate((a, b, c)):
        i, j = [k for k in range(3) if k != axis]
        step = np.eye(3)
        step[i, i] = step[j, j] = np.cos(angle)
        step[i, j], step[j, i] = -np.sin(angle), np.sin(angle)
        turn = turn @ step
    shear = np.eye(3) + np.triu(rng.normal(0, 0.03, (3, 3)), 1)
    return np.linalg.inv(turn @ shear @ np.diag(scales)), rng.normal(0, 2.0, 3)


def _brain_box(templates: Templates, matrix: np.ndarray, shift: np.ndarray, shape: Shape, origin: Millimetres) -> Box:
    """The part of the canvas that holds the brain and a margin of some millimetres."""
    step = 6
    depth = templates.maps[templates.names.index("depth_mm")][::step, ::step, ::step]
    there = np.argwhere(depth > -step) * step + np.asarray(MAP_ORIGIN_MM)
    here = np.linalg.solve(matrix, (there - shift).T).T - np.asarray(origin)
    return Box.around(np.round(here).astype(int), margin=9, shape=shape).intersection(Box.whole(shape))


def _warped(
    rng: np.random.Generator, templates: Templates, matrix: np.ndarray, shift: np.ndarray, box: Box, origin: Millimetres
) -> np.ndarray:
    """All template maps, resampled once."""
    shape = box.shape
    axes = [np.arange(n, dtype=np.float32) + box.start[k] + origin[k] for k, n in enumerate(shape)]
    elastic = [
        rng.uniform(1.5, 3.5) * smooth_field(rng, shape, spacing_vox=26)
        + rng.uniform(0.6, 1.6) * smooth_field(rng, shape, spacing_vox=11)
        for _ in range(3)
    ]
    size = np.asarray(templates.maps.shape[1:])
    grid = np.empty((1, *shape, 3), dtype=np.float32)
    for row in range(3):
        there = elastic[row] + np.float32(shift[row] - MAP_ORIGIN_MM[row])
        for k in range(3):
            there = there + (np.float32(matrix[row, k]) * axes[k]).reshape([-1 if a == k else 1 for a in range(3)])
        grid[0, ..., 2 - row] = 2 * there / (size[row] - 1) - 1
    maps = torch.from_numpy(templates.maps)[None]
    with torch.no_grad():
        warped = functional.grid_sample(maps, torch.from_numpy(grid), align_corners=True, padding_mode="border")
    return warped[0].numpy()


def _egg_mm(box: Box, origin: Millimetres) -> np.ndarray:
    """Signed distance, about, to the egg-shaped surface of a small brain."""
    r = np.zeros(box.shape, dtype=np.float32)
    for k, n in enumerate(box.shape):
        x = (np.arange(n) + box.start[k] + origin[k] - _SMALL_CENTRE_MM[k]) / _SMALL_RADII_MM[k]
        r += (x**2).astype(np.float32).reshape([-1 if a == k else 1 for a in range(3)])
    return (1 - np.sqrt(r)) * float(np.mean(_SMALL_RADII_MM))


def _tissue(rng: np.random.Generator, maps: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Sharpens the averaged template into one person's tissue: folds, ventricles of their own size, atrophy."""
    shape = maps["grey"].shape
    inner = np.maximum(maps["deep"], maps["stem"])
    ventricle_mm = maps["ventricle_mm"] - rng.choice([rng.uniform(-0.7, 1.5), rng.uniform(1, 4.5)], p=[0.6, 0.4])
    ventricle_mm = ventricle_mm + 0.4 * smooth_field(rng, shape, spacing_vox=6)
    cortex = np.clip(maps["grey"] * 2.2 - 0.3, 0, 1) * (1 - inner)
    little = maps["cerebellum"] > 0.5
    fold_mm = sheets(rng, shape, spacing_vox=rng.uniform(8, 12))
    fold_mm = np.where(little, 1.3 * sheets(rng, shape, spacing_vox=rng.uniform(3.5, 5)), fold_mm)
    width_mm = rng.uniform(0.3, 1.1) + 0.35 * smooth_field(rng, shape, spacing_vox=14) - 0.4 * little
    width_mm -= 0.04 * np.clip(maps["depth_mm"] - 6, 0, 30)  # sulci close with depth
    thickness_mm = rng.uniform(2.2, 3.4)
    rough = rng.uniform(0.25, 0.6) * smooth_field(rng, shape, spacing_vox=rng.uniform(2.5, 5))
    fluid = np.log(maps["fluid"].clip(0) + 0.03) + 1.3 * rough + rng.uniform(1.2, 2.6)
    fluid += np.clip((1.2 - maps["depth_mm"]) * 1.5, -4, 6)
    fluid = np.maximum(fluid, np.clip(2.5 * (width_mm - fold_mm), -5, 2) * cortex - 5 * (1 - cortex))
    grey = np.log(maps["grey"] + 0.03)
    white = np.log(maps["white"] + 0.03) - rough
    pial_mm = np.minimum(fold_mm - np.maximum(width_mm, 0), maps["depth_mm"])
    core = np.clip(pial_mm - thickness_mm, -2, 1.5) * np.where(little, 0.5, 1.6)
    white += (core + 0.6 * smooth_field(rng, shape, spacing_vox=rng.uniform(2.5, 4))) * cortex
    sharp = 3.0
    top = np.maximum(np.maximum(fluid, grey), white)
    parts = [np.exp(sharp * (p - top)) for p in (fluid, grey, white)]
    total = parts[0] + parts[1] + parts[2]
    inside = 1 / (1 + np.exp(np.clip(ventricle_mm * 3.0, -30, 30)))
    near = np.clip(1 - ventricle_mm / 2.5, 0, 1) * np.clip(ventricle_mm + 1, 0, 1)
    fluid, grey, white = (p / total for p in parts)
    grey *= 1 - 0.8 * near * (1 - 0.7 * maps["deep"])  # the template's ventricular border reads as grey matter
    fluid = np.maximum(fluid * (1 - near), inside) * (maps["depth_mm"] > -20)
    fluid = np.clip(fluid, 0, 1)
    grey = np.minimum(grey, 1 - fluid)
    soft = (0.45, 0.45, 0.45)
    fluid, grey = blur(fluid, soft), blur(grey, soft)
    return {
        "fluid": fluid,
        "grey": grey,
        "white": np.clip(1 - fluid - grey, 0, 1),
        "ventricle_mm": ventricle_mm,
        "depth_mm": maps["depth_mm"],
        **{zone: maps[zone] for zone in ("deep", "cerebellum", "stem", "insula", "tract")},
    }
