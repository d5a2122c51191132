"""Lesions put in, taken out and moved: what the network finds, and where (METHOD section 5, point 5)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from lesionwise.asking.probe import Probe, Reading
from lesionwise.asking.scan import Scan
from lesionwise.charts.chart import Bar, Chart, Heat, Panel
from lesionwise.experiments.experiment import Experiment, Finding, keyed, mean_of, patients_note
from lesionwise.geometry.distance import depth_mm, distance_to_mm
from lesionwise.instances.controls import place_controls
from lesionwise.instances.instance import Instance
from lesionwise.types import MaskArray

DOSES = (0.25, 0.5, 1.0, 1.5, 2.0)
RADII_MM = (1.5, 2.5, 4.0)
TYPICAL_SD = (1.5, -1.0)
"""Contrast of a lesion where the scan has none to measure: FLAIR brighter, everything else darker, in head SDs."""
EDGE_MM = 1.0
_NEAR_LESIONS_MM = 8.0


def synthetic_rows(
    scan: Scan,
    *,
    doses: Sequence[float] = DOSES,
    radii_mm: Sequence[float] = RADII_MM,
    places: int = 3,
    moved: int = 5,
) -> pd.DataFrame:
    """One row per lesion that was inserted, removed or moved.

    - `kind="inserted"`: a ball of `radius_mm` with a soft edge in healthy white matter, at `dose` times the scan's own
      typical lesion contrast, in FLAIR only, T1w only or both (`shown`), at the same `places` for all.
    - `removed`: a lesion painted over with healthy tissue; `before` is its score without that.
    - `not placed`: an insertion for which there is no place; `note` says why.
    - `moved`: a lesion's difference from healthy tissue, added elsewhere: `to` white matter, grey matter, fluid, beside
      the ventricles (white matter within 3 mm of deep fluid). `fit` is the share of its voxels in that tissue.
    Columns beside: probability_mean over the lesion's voxels, probability_max, detected, before (the score at that place
    without the change), contrast_<channel> in head SDs.
    """
    contrast = typical_contrast(scan)
    rows = _inserted(scan, contrast, doses=doses, radii_mm=radii_mm, places=places)
    lesions = [one for one in scan.chosen if one.outcome not in ("TN", "FN")]
    for instance in lesions:
        rows.append(_removed(scan, instance))
    for instance in lesions[:moved]:
        rows += _moved(scan, instance)
    table = keyed(scan, rows)
    for channel, value in zip(scan.channels, contrast, strict=True):
        table[f"contrast_{channel}"] = value
    return table


def typical_contrast(scan: Scan) -> np.ndarray:
    """Median over the scan's lesions of (lesion - healthy tissue painted over it), per channel in head SDs."""
    reference = scan.case.reference
    found = []
    for instance in scan.instances:
        if instance.outcome in ("TN", "FP") or (reference is not None and not reference[instance.index].any()):
            continue
        probe = scan.probe(instance)
        inside = torch.from_numpy(probe.lesion())
        difference = (probe.base - probe.inpainted(probe.lesion(), rng=None)) / probe.scale
        found.append(difference[:, inside].median(dim=1).values.numpy())
    if found:
        return np.median(np.array(found), axis=0)
    return np.array([TYPICAL_SD[0] if name.upper() == "FLAIR" else TYPICAL_SD[1] for name in scan.channels])


def synthetic_finding(rows: pd.DataFrame, rng: np.random.Generator) -> Finding:
    """Detection surfaces, what removal does, where a lesion is still found."""
    sentences = [f"{patients_note(rows.drop(columns='lesion'))}."]
    inserted, charts, tables = rows[rows["kind"] == "inserted"], [], {}
    if len(inserted):
        panels = []
        for shown, part in inserted.groupby("shown", sort=False):
            own = part.groupby(["subject", "radius_mm", "dose"])["detected"].mean().reset_index()
            surface = own.pivot_table(index="radius_mm", columns="dose", values="detected", aggfunc="mean")
            x, y = ([f"{v:g}" for v in axis] for axis in (surface.columns, surface.index))
            heat = Heat(x, y, surface.to_numpy(dtype=float), "detected (share)", (0.0, 1.0))
            panels.append(Panel(f"shown in {shown}", "dose (x typical contrast)", "radius (mm)", [heat]))
        charts.append(
            Chart(
                "synthetic_dose",
                "What must a lesion look like to be found?",
                panels,
                "Share of lesions put into healthy white matter that the network detects. Dose 1 is the scan's own typical "
                "lesion contrast. Mean over patients' means.",
                sample=f"{patients_note(inserted.drop(columns='lesion'))}, {_per_cell(inserted)} in each cell",
            )
        )
        full = inserted[(inserted["dose"] >= 1) & (inserted["radius_mm"] == inserted["radius_mm"].max())]
        words = []
        for shown, part in full.groupby("shown", sort=False):
            words.append(f"{mean_of(part, 'detected', rng)} of those shown in {shown}")
        sentences.append(
            f"Of large inserted lesions at typical contrast or more, the network detected {', '.join(words)}."
        )
        keys = ["shown", "dose", "radius_mm"]
        columns = ["detected", "probability_mean", "probability_max"]
        tables["synthetic_dose"] = inserted.groupby(keys)[columns].mean().reset_index()
    left_out = int((rows["kind"] == "not placed").sum())
    if left_out:
        sentences.append(f"{left_out} insertions found no place in healthy white matter away from lesions.")
    removed = rows[rows["kind"] == "removed"]
    if len(removed):
        before, after = mean_of(removed, "before", rng), mean_of(removed, "probability_mean", rng)
        left = mean_of(removed, "detected", rng)
        sentences.append(
            f"Painting {len(removed)} real lesions over with healthy tissue lowered their mean probability from {before} "
            f"to {after}; {left} of them were still detected."
        )
    moved = rows[rows["kind"] == "moved"]
    if len(moved):
        bars, words = [], []
        for to, part in moved.groupby("to", sort=False):
            one = mean_of(part, "detected", rng)
            bars.append(Bar(f"{to} (n = {len(part)})", one.estimate, one.low, one.high, "#0072B2"))
            words.append(f"{one} in {to}")
        panel = Panel("", "lesions detected (share)", "", bars, horizontal=True, x_limits=(0.0, 1.0))
        charts.append(
            Chart(
                "synthetic_moved",
                "Where is a real lesion still found?",
                (panel,),
                "A lesion's difference from healthy tissue, added elsewhere. Lines: 95 % over patients (six or more).",
                sample=patients_note(moved),
            )
        )
        sentences.append(f"Real lesions moved elsewhere were detected: {', '.join(words)}.")
        tables["synthetic_moved"] = moved.groupby("to")[["detected", "probability_mean", "fit"]].mean().reset_index()
    sentences.append(
        "Published: a FLAIR hyperintensity is required, together with healthy white matter around the border; the protocol "
        "is not known."
    )
    return Finding(" ".join(sentences), tuple(charts), tables)


def _per_cell(inserted: pd.DataFrame) -> str:
    """How many lesions each cell of the dose surface stands for."""
    counts = inserted.groupby(["shown", "dose", "radius_mm"]).size()
    low, high = int(counts.min()), int(counts.max())
    return f"{low} insertion{'s' if high != 1 else ''}" if low == high else f"{low} to {high} insertions"


def _inserted(
    scan: Scan, contrast: np.ndarray, *, doses: Sequence[float], radii_mm: Sequence[float], places: int
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    views = _views(scan.channels)
    for number, radius in enumerate(radii_mm):
        shape = _ball(scan, radius)
        placed = place_controls(
            [shape], white_matter=scan.tissues.white, avoid=scan.lesions, rng=scan.rng(5, number), n=places,
            margin_mm=_NEAR_LESIONS_MM, depth_tolerance_mm=1e6,
        )  # fmt: skip
        for sentence in placed.failures:
            rows.append({"kind": "not placed", "lesion": None, "radius_mm": float(radius), "note": sentence})
        for place, instance in enumerate(placed.instances):
            probe = scan.probe(instance)
            alpha = torch.from_numpy(np.clip(probe.field(_profile(scan, instance)), 0.0, 1.0)).to(probe.base)
            step = alpha * torch.from_numpy(contrast).to(probe.base).reshape(-1, 1, 1, 1) * probe.scale
            cells = [(dose, name, shown) for dose in doses for name, shown in views]
            inputs = [probe.base + dose * step * _only(shown, step) for dose, _, shown in cells]
            for (dose, name, _), (reading,) in zip(cells, probe.read(inputs), strict=True):
                rows.append(
                    {
                        "kind": "inserted",
                        "lesion": None,
                        "shown": name,
                        "dose": float(dose),
                        "radius_mm": float(radius),
                        "place": place,
                        **_answer(probe, reading),
                    }
                )
    return rows


def _answer(probe: Probe, reading: Reading) -> dict[str, Any]:
    """What the network says, and what it said before."""
    return {
        "probability_mean": reading.score,
        "probability_max": float(reading.probability.max()),
        "detected": reading.detected,
        "before": probe.unchanged[0].score,
    }


def _removed(scan: Scan, instance: Instance) -> dict[str, Any]:
    probe = scan.probe(instance)
    without = probe.inpainted(probe.lesion(), rng=scan.rng(instance.label, 6))
    reading = probe.read([without])[0][0]
    return {
        "kind": "removed",
        "lesion": instance.label,
        "outcome": instance.outcome,
        **_answer(probe, reading),
    }


def _moved(scan: Scan, instance: Instance) -> list[dict[str, Any]]:
    """The lesion's difference from healthy tissue, added at a place of each tissue."""
    own = scan.probe(instance)
    difference = (own.base - own.inpainted(own.lesion(), rng=None)).numpy()
    whole = np.zeros((len(scan.channels), *scan.grid.shape), dtype=difference.dtype)
    whole[(slice(None), *own.box.slices)] = difference
    on_scan = torch.stack([scan.placement.to_scan.forward(torch.from_numpy(part)) for part in whole]).numpy()
    rows = []
    for number, (to, region) in enumerate(_targets(scan).items()):
        found = _place(scan, instance, region, rng=scan.rng(instance.label, 7, number))
        if found is None:
            continue
        shift, fit = found
        there = Instance(instance.label, instance.voxels + shift, instance.affine, None, "control")
        probe = scan.probe(there)
        added = torch.stack([torch.from_numpy(probe.field(_shifted(part, shift))) for part in on_scan]).to(probe.base)
        reading = probe.read([probe.base + added])[0][0]
        rows.append(
            {
                "kind": "moved",
                "lesion": instance.label,
                "outcome": instance.outcome,
                "to": to,
                "fit": fit,
                **_answer(probe, reading),
            }
        )
    return rows


def _targets(scan: Scan) -> dict[str, MaskArray]:
    """Where lesions are moved to. Deep fluid (ventricles) lies farther than a third of the head's depth from its rim."""
    tissue = scan.tissues
    depth = depth_mm(scan.case.head, scan.sizes_mm)
    deep = tissue.fluid & (depth > depth.max() / 3.0)
    regions = {"white matter": scan.healthy, "grey matter": tissue.grey, "fluid": tissue.fluid}
    if deep.any():
        near = np.isfinite(distance_to_mm(deep, scan.sizes_mm, reach_mm=3.0))
        regions["beside the ventricle"] = scan.healthy & near
    return regions


def _place(
    scan: Scan, instance: Instance, region: MaskArray, *, rng: np.random.Generator, tries: int = 300
) -> tuple[np.ndarray, float] | None:
    """A shift that puts the lesion's centre into a region, and the share of its voxels that then lie in it.

    Of `tries` places drawn at random, away from lesions, the one that fits best. None if there is no place.
    """
    far = np.isinf(distance_to_mm(scan.lesions, scan.sizes_mm, reach_mm=_NEAR_LESIONS_MM))
    candidates = np.argwhere(region & far)
    if not len(candidates):
        return None
    centre = instance.voxels[np.argmin(((instance.voxels - instance.voxels.mean(axis=0)) ** 2).sum(axis=1))]
    drawn = candidates[rng.choice(len(candidates), size=min(tries, len(candidates)), replace=False)]
    best, share = None, 0.0
    for target in drawn:
        moved = instance.voxels + (target - centre)
        if (moved < 0).any() or (moved >= region.shape).any() or not scan.case.head[tuple(moved.T)].all():
            continue
        fit = float((region & far)[tuple(moved.T)].mean())
        if fit > share:
            best, share = target - centre, fit
    return None if best is None else (best, share)


def _shifted(values: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """The array moved by whole voxels; what leaves the grid is lost, what enters is 0."""
    out = np.zeros_like(values)
    here, there = [], []
    for n, s in zip(values.shape, shift.tolist(), strict=True):
        here.append(slice(max(0, -s), min(n, n - s)))
        there.append(slice(max(0, s), min(n, n + s)))
    out[tuple(there)] = values[tuple(here)]
    return out


def _ball(scan: Scan, radius_mm: float) -> Instance:
    """A ball somewhere on the scan's grid: the shape that is placed."""
    sizes = np.asarray(scan.sizes_mm)
    reach = np.ceil(radius_mm / sizes).astype(int)
    grid = np.stack(np.meshgrid(*[np.arange(-n, n + 1) for n in reach], indexing="ij"), axis=-1).reshape(-1, 3)
    inside = grid[((grid * sizes) ** 2).sum(axis=1) <= radius_mm**2]
    return Instance(1, inside - inside.min(axis=0), scan.case.image.affine)


def _profile(scan: Scan, instance: Instance) -> np.ndarray:
    """1 inside, falling to 0 over `EDGE_MM` around the border: a lesion's partial volume."""
    return np.clip(0.5 - scan.distance_mm(instance, reach_mm=EDGE_MM) / EDGE_MM, 0.0, 1.0)


def _views(channels: tuple[str, ...]) -> list[tuple[str, tuple[bool, ...]]]:
    """Every channel alone, and all of them together."""
    alone = [(f"{name} only", tuple(other == name for other in channels)) for name in channels]
    return [*alone, ("both" if len(channels) == 2 else "all", (True,) * len(channels))] if len(channels) > 1 else alone


def _only(shown: tuple[bool, ...], like: Tensor) -> Tensor:
    return torch.tensor(shown).reshape(-1, 1, 1, 1).to(like)


EXPERIMENT = Experiment(
    name="synthetic",
    question="What must a lesion look like, and where must it lie, to be found?",
    rows_fn=synthetic_rows,
    group_fn=synthetic_finding,
    defaults={"doses": DOSES, "radii_mm": RADII_MM, "places": 3, "moved": 5},
)
