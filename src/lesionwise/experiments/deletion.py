"""Deletion and insertion: what happens to a lesion, and to its neighbour, as voxels are taken away in a map's order."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from lesionwise.asking.probe import Probe, Reading
from lesionwise.asking.scan import Scan
from lesionwise.attribution.result import Attribution
from lesionwise.instances.instance import Instance

AROUND_MM = 10.0


class Stage:
    """One lesion's region, what its voxels are replaced by, and its nearest neighbour as the control."""

    def __init__(self, scan: Scan, one: Instance, probe: Probe, region: np.ndarray, tissue: Tensor) -> None:
        self.scan, self.one, self.probe, self.region, self.tissue = scan, one, probe, region, tissue
        self.cells = np.flatnonzero(region)

    @classmethod
    def of(cls, scan: Scan, one: Instance) -> "Stage":
        others = [other for other in scan.instances if other.label != one.label and other.outcome != "TN"]
        near = sorted(others, key=lambda other: np.linalg.norm(np.subtract(other.centroid_mm, one.centroid_mm)))[:1]
        probe = scan.probe(one, *near)
        distance = probe.field(scan.distance_mm(one, reach_mm=2 * AROUND_MM), outside=np.inf)
        region = (distance <= AROUND_MM) & probe.head
        tissue = probe.tissue_everywhere(rng=scan.rng(one.label, 10))
        return cls(scan, one, probe, region, tissue)

    def on_network(self, found: Attribution) -> np.ndarray:
        """The map's net value at each voxel of the box: the sum over channels, since a voxel is taken away in all of them.

        Evidence against the lesion counts against the voxel: the reversed map gives the reversed order.
        """
        whole = np.zeros(self.scan.case.image.shape)
        whole[found.box.slices] = found.data.sum(axis=0)
        return self.probe.field(whole)

    def baselines(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Orderings that know nothing of the network: at random, by brightness of the first channel, by distance."""
        distance = self.probe.field(self.scan.distance_mm(self.one, reach_mm=2 * AROUND_MM), outside=np.inf)
        first = self.probe.base[0].cpu().numpy().astype(float)
        return {"random": rng.random(self.region.shape), "intensity": first, "distance": -distance}

    @cached_property
    def ends(self) -> tuple[tuple[Reading, ...], tuple[Reading, ...]]:
        """What the network says with nothing and with all of the region taken away: the same for every order."""
        return self.probe.unchanged, self.probe.read([self.without(self.cells)])[0]

    def without(self, cells: np.ndarray) -> Tensor:
        """The input with healthy tissue at these cells of the box."""
        mask = np.zeros(self.region.size, dtype=bool)
        mask[cells] = True
        return torch.where(torch.from_numpy(mask.reshape(self.region.shape)), self.tissue, self.probe.base)


def curves(stage: Stage, score: np.ndarray, fractions: Sequence[float]) -> dict[str, float]:
    """Deletion, insertion and specificity of one ordering, in the explained target (log-odds by default).

    Deletion and insertion are means over the fractions of (y - y_none) / (y_all - y_none), span-normalised over the voxels
    within 10 mm. Ties are broken by a fixed shuffle.
    """
    cells = np.random.default_rng(0).permutation(stage.cells)
    ordered = cells[np.argsort(-score.ravel()[cells], kind="stable")]
    counts, last = [round(f * len(ordered)) for f in fractions], len(ordered)
    tenth = ordered[: round(0.1 * last)]
    inner = [n for n in counts if 0 < n < last]
    removed = [*(ordered[:n] for n in inner), *(ordered[n:] for n in inner), tenth]
    found = stage.probe.read([stage.without(cells) for cells in removed])
    deleted = dict(zip(inner, found[: len(inner)], strict=True)) | {0: stage.ends[0], last: stage.ends[1]}
    inserted = dict(zip(inner, found[len(inner) : -1], strict=True)) | {0: stage.ends[1], last: stage.ends[0]}
    readings = [*(deleted[n] for n in counts), *(inserted[n] for n in counts), found[-1]]
    y = np.array([reading[0].target_mean for reading in readings])
    top, bottom = (reading[0].target_mean for reading in stage.ends)
    span = top - bottom
    if not abs(span) > 1e-9:
        return {"deletion": np.nan, "insertion": np.nan}
    kept = (y[: len(counts)] - bottom) / span
    restored = (y[len(counts) : 2 * len(counts)] - bottom) / span
    out = {
        "deletion": float(np.trapezoid(kept, fractions)),
        "insertion": float(np.trapezoid(restored, fractions)),
        "evidence": float(span),
    }
    if len(stage.probe.sites) > 1:
        other = np.array([reading[1].target_mean for reading in readings])
        out["specificity"] = float((top - y[-1]) - (stage.ends[0][1].target_mean - other[-1]))
        fallen = (stage.ends[0][1].target_mean - other) / span
        out["deletion_other"] = float(np.trapezoid(fallen[: len(counts)], fractions))
        out["insertion_other"] = float(np.trapezoid(fallen[len(counts) : 2 * len(counts)], fractions))
    return out
