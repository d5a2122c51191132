"""Control regions (TN): lesion shapes placed in healthy white matter, matched on size, tissue and depth."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32
from scipy import ndimage

from lesionwise.geometry.affine import voxel_sizes_mm
from lesionwise.geometry.box import Box
from lesionwise.geometry.distance import depth_mm, distance_to_mm
from lesionwise.instances.instance import Instance
from lesionwise.types import MaskArray, Shape, VoxelArray

_CHUNK = 4_000_000
_PROBES = 32


@dataclass(frozen=True, eq=False)
class Control:
    """One control region and how well it matches the lesion whose shape it has.

    Depths are mean distances of the voxels to the border of the white matter in mm; `lesion_distance_mm` is the
    distance from the region to the nearest predicted or reference lesion.
    """

    instance: Instance
    template: int
    depth_mm: float
    template_depth_mm: float
    lesion_distance_mm: float


@dataclass(frozen=True, eq=False)
class ControlPlacement:
    """Control regions that could be placed, and one sentence for each that could not."""

    controls: tuple[Control, ...]
    failures: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def instances(self) -> list[Instance]:
        """The control regions as TN instances."""
        return [control.instance for control in self.controls]


def place_controls(
    lesions: Sequence[Instance],
    *,
    white_matter: MaskArray,
    avoid: MaskArray,
    rng: np.random.Generator,
    n: int | None = None,
    margin_mm: int | float = 10,
    depth_tolerance_mm: int | float = 1,
    first_label: int | None = None,
) -> ControlPlacement:
    """Places the shapes of `lesions` in healthy white matter, wholly inside it, as instances with outcome TN.

    Each region has its lesion's shape (so size and shape match exactly), lies in white matter (tissue), at the lesion's
    depth - mean distance to the border of the white matter, lesions counted as white matter - to within
    `depth_tolerance_mm`, farther than `margin_mm` from every voxel of `avoid` (every predicted and reference lesion,
    small ones included), and does not touch another control. Among all places that qualify one is drawn evenly.
    `n` regions are placed (default: one per lesion); templates are taken in random order, each again only once all have
    been used. Where no place qualifies, the region is left out and a sentence says so; nothing is forced.
    """
    if n is None:
        n = len(lesions)
    if not lesions or n == 0:
        return ControlPlacement((), ())
    affine = lesions[0].affine
    sampling = voxel_sizes_mm(affine)
    depth = depth_mm(white_matter | avoid, sampling).astype(np.float32)
    distance = distance_to_mm(avoid, sampling, reach_mm=2 * margin_mm).astype(np.float32)
    free = white_matter & ~avoid & (distance > margin_mm)
    tolerance = float(depth_tolerance_mm)

    label = first_label if first_label is not None else max(one.label for one in lesions) + 1
    controls: list[Control] = []
    failures: list[str] = []
    for template in _templates(lesions, n=n, rng=rng):
        wanted = float(depth[template.index].mean())
        voxels = _place(template.voxels, free=free, depth=depth, wanted=wanted, tolerance=tolerance, rng=rng)
        if voxels is None:
            failures.append(
                f"No place in healthy white matter fits the shape of lesion {template.label} "
                f"({template.n_voxels} voxels) at depth {wanted:.1f} mm (within {depth_tolerance_mm:g} mm) and more "
                f"than {margin_mm:g} mm from every lesion."
            )
            continue
        instance = Instance(label, voxels, affine, "TN", "control")
        if not np.isfinite(distance[instance.index]).any():  # farther than was looked
            distance = distance_to_mm(avoid, sampling).astype(np.float32)
        controls.append(
            Control(
                instance=instance,
                template=template.label,
                depth_mm=float(depth[instance.index].mean()),
                template_depth_mm=wanted,
                lesion_distance_mm=float(distance[instance.index].min()),
            )
        )
        label += 1
        _occupy(free, voxels)
    return ControlPlacement(tuple(controls), tuple(failures))


def _templates(lesions: Sequence[Instance], *, n: int, rng: np.random.Generator) -> Iterable[Instance]:
    for start in range(0, n, len(lesions)):
        for which in rng.permutation(len(lesions))[: n - start]:
            yield lesions[which]


def _place(
    shape_voxels: VoxelArray,
    *,
    free: MaskArray,
    depth: Float32[np.ndarray, "i j k"],
    wanted: float,
    tolerance: float,
    rng: np.random.Generator,
) -> VoxelArray | None:
    """Voxels of a shape moved to a place drawn evenly from all that qualify, or None if there is none."""
    box = Box.around(shape_voxels)
    offsets = shape_voxels - np.asarray(box.start)
    anchor = offsets[len(offsets) // 2]
    offsets = offsets - anchor
    starts = np.argwhere(free)
    low, high = -offsets.min(axis=0), np.asarray(free.shape) - offsets.max(axis=0)
    starts = starts[((starts >= low) & (starts < high)).all(axis=1)]
    rng.shuffle(starts)
    steps = np.asarray(np.ravel_multi_index(np.eye(3, dtype=int), free.shape))
    flat_offsets, flat_starts = offsets @ steps, starts @ steps
    free_flat, depth_flat = free.ravel(), depth.ravel()
    # A few voxels of the shape rule most places out before the whole shape is looked at.
    probes = flat_offsets[:: max(1, len(flat_offsets) // _PROBES)]
    for probe in probes:
        flat_starts = flat_starts[free_flat[flat_starts + probe]]
    chunk = max(1, _CHUNK // len(flat_offsets))
    for begin in range(0, len(flat_starts), chunk):
        cells = flat_starts[begin : begin + chunk, None] + flat_offsets[None, :]
        cells = cells[free_flat[cells].all(axis=1)]
        near = np.abs(depth_flat[cells].mean(axis=1) - wanted) <= tolerance
        if near.any():
            chosen = cells[int(np.argmax(near))]
            return np.stack(np.unravel_index(chosen, free.shape), axis=1)
    return None


def _occupy(free: MaskArray, voxels: VoxelArray) -> None:
    """Takes a region and all voxels that touch it out of the free space, in place."""
    shape: Shape = (free.shape[0], free.shape[1], free.shape[2])
    box = Box.around(voxels, margin=1, shape=shape)
    taken = np.zeros(box.shape, dtype=bool)
    taken[tuple((voxels - np.asarray(box.start)).T)] = True
    free[box.slices] &= ~ndimage.binary_dilation(taken, structure=np.ones((3, 3, 3), dtype=bool))
