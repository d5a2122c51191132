"""A lesion's surroundings in numbers: the map against distance, where its peaks lie, how much lies outside the view."""

from dataclasses import dataclass

import numpy as np

from lesionwise.geometry.box import Box
from lesionwise.geometry.distance import signed_distance_mm
from lesionwise.report.scene import ScanView
from lesionwise.saliency import SaliencyMap

REACH_MM = 16.0
"""How far from the lesion's border the profile goes."""


@dataclass(frozen=True, eq=False)
class Neighbourhood:
    """The block around one lesion: signed distance to its border, and which voxels belong to other lesions."""

    box: Box
    distance_mm: np.ndarray
    omega: np.ndarray
    others: np.ndarray

    @classmethod
    def of(cls, scene: ScanView, label: int, *, margin_mm: float = REACH_MM) -> "Neighbourhood":
        """Distances are from voxel centres to the border of Omega, in mm: positive outside, negative inside."""
        sizes = scene.voxel_sizes_mm
        margin = int(np.ceil(margin_mm / min(sizes)))
        box = Box.around(scene.voxels(label), margin=margin, shape=scene.shape)
        labels = scene.labels[box.slices]
        omega = labels == label
        return cls(box, signed_distance_mm(omega, sizes), omega, (labels > 0) & ~omega)

    def outside_mm(self, voxel: np.ndarray) -> float | None:
        """Distance of a voxel of the scene to the lesion: 0 inside, None beyond this block."""
        local = tuple(int(v - s) for v, s in zip(voxel, self.box.start, strict=True))
        near = all(0 <= a < n for a, n in zip(local, self.box.shape, strict=True))
        return float(max(self.distance_mm[local], 0.0)) if near else None

    def values(self, saliency: SaliencyMap, channel: str) -> np.ndarray:
        """The map of one channel on this block, 0 where the map was not kept."""
        whole = np.zeros(self.box.shape, dtype=np.float32)
        shared = self.box.intersection(saliency.box)
        if not shared.is_empty:
            whole[shared.relative_to(self.box).slices] = saliency.channel(channel)[
                shared.relative_to(saliency.box).slices
            ]
        return whole


def distance_profile(
    around: Neighbourhood, saliency: SaliencyMap, *, step_mm: float
) -> dict[str, list[dict[str, float]]]:
    """Per channel, the map's mean and quartiles over voxels at distance (from, to] mm; other lesions are left out.

    Negative distances lie inside the lesion. A bin without voxels is left out.
    """
    # A guard of a thousandth keeps distances such as sqrt(9) on their own side of an edge, the right end included.
    first = np.floor((around.distance_mm.min() - 1e-3) / step_mm)
    edges = np.arange(min(first, -1), np.ceil(REACH_MM / step_mm) + 1) * step_mm
    kept = ~around.others & (around.distance_mm <= REACH_MM)
    which = np.digitize(around.distance_mm[kept] - 1e-3, edges)
    result: dict[str, list[dict[str, float]]] = {}
    for channel in saliency.channels:
        values = around.values(saliency, channel)[kept]
        rows = []
        for number in range(1, len(edges)):
            inside = values[which == number]
            if inside.size:
                low, high = np.percentile(inside, [25, 75])
                rows.append(
                    {
                        "from": float(edges[number - 1]),
                        "to": float(edges[number]),
                        "mean": float(inside.mean()),
                        "low": float(low),
                        "high": float(high),
                        "voxels": int(inside.size),
                    }
                )
        result[channel] = rows
    return result


def extremes(around: Neighbourhood, saliency: SaliencyMap, channel: str) -> dict[str, dict[str, object]]:
    """Place (voxel of the scene), value and distance to the border of the largest and the smallest value of a channel.

    The whole kept map is searched, not only the neighbourhood; a place beyond it has no distance (None).
    """
    values = saliency.channel(channel)
    found: dict[str, dict[str, object]] = {}
    for what, flat in (("peak", int(values.argmax())), ("trough", int(values.argmin()))):
        index = np.unravel_index(flat, values.shape)
        voxel = [int(a + b) for a, b in zip(index, saliency.box.start, strict=True)]
        found[what] = {
            "voxel": voxel,
            "value": float(values[index]),
            "distance_mm": around.outside_mm(np.asarray(voxel)),
        }
    return found
