"""Is the map about this network, this scan and this lesion at all? (METHOD section 5, point 6)"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from scipy import ndimage
from scipy.stats import spearmanr

from lesionwise.asking.scan import Scan
from lesionwise.attribution import AbstractMethod
from lesionwise.attribution.result import Attribution
from lesionwise.charts.chart import Chart, Line, Panel, Violin
from lesionwise.experiments.experiment import Experiment, Finding, keyed, lesions_of, mean_of, patients_note
from lesionwise.experiments.randomisation import Mode, randomised
from lesionwise.geometry.box import Box
from lesionwise.instances.instance import Instance
from lesionwise.stats import MIN_PATIENTS, icc_agreement

_AROUND_MM = 12.0
SIMILARITIES = {
    "spearman": "signed values (Spearman)",
    "spearman_magnitude": "magnitudes (Spearman)",
    "ssim": "structure (SSIM)",
}
CHANCE = {"shuffled": "A shuffled map", "other lesion": "The map of another lesion, moved here,"}


def sanity_rows(
    scan: Scan,
    *,
    method: AbstractMethod | None = None,
    stages: int = 5,
    modes: Sequence[Mode] = ("cascading", "independent"),
    seeds: int = 3,
) -> pd.DataFrame:
    """One row per lesion, test and channel.

    - `test="cascading"` / `"independent"`: weights are drawn anew, from the output towards the input (Adebayo2018),
      together or one stage at a time (`stages=0`: not at all); Omega stays. `stage` 1 is next to the output, `fraction` the
      share of weighted layers drawn anew. A map that does not change is not about the network.
    - `"shuffled"`: the map with its voxels shuffled; `"other lesion"`: another lesion's map moved onto this one. What a
      map must beat.
    - `"beyond reach"`: the largest |M| beyond the network's finite receptive field; it must be exactly 0.
    - `"seed"`: the peak under another seed (`value`); `"repeat"`: the peak and place, for repeated scans of a patient.
    `spearman`, `spearman_magnitude` and `ssim` compare with the original map within 12 mm of the lesion.
    """
    chosen = scan.chosen
    if not chosen:
        return keyed(scan, [])
    method = method or scan.explained.settings.method
    original = scan.attribute(chosen, method)
    boxes = [_around(scan, one) for one in chosen]
    views = [_cut(found, box, len(scan.channels)) for found, box in zip(original, boxes, strict=True)]
    rows: list[dict[str, Any]] = []
    for mode in modes if stages > 0 else ():
        for stage, fraction, network in randomised(scan.model.network, stages=stages, mode=mode, rng=scan.rng(8)):
            changed = scan.attribute(chosen, method, network=network)
            for one, view, box, found in zip(chosen, views, boxes, changed, strict=True):
                facts = {"test": mode, "stage": stage, "fraction": fraction}
                rows += _compared(scan, one, view, _cut(found, box, len(scan.channels)), facts)
    for number, (one, view) in enumerate(zip(chosen, views, strict=True)):
        rng = scan.rng(one.label, 9)
        shuffled = np.stack([rng.permutation(part.ravel()).reshape(part.shape) for part in view])
        rows += _compared(scan, one, view, shuffled, {"test": "shuffled"})
        if len(chosen) > 1:
            other = original[(number + 1) % len(chosen)]
            shift = _centre(one) - _centre(chosen[(number + 1) % len(chosen)])
            moved = _cut(other, boxes[number], len(scan.channels), shift=shift)
            rows += _compared(scan, one, view, moved, {"test": "other lesion"})
        rows += _beyond_reach(scan, one, original[number])
        rows += _peaks(scan, one, original[number], {"test": "repeat"})
    for seed in range(seeds if method.draws_per_lesion > 1 else 0):
        for one, found in zip(chosen, scan.attribute(chosen, method, seed=1000 + seed), strict=True):
            rows += _peaks(scan, one, found, {"test": "seed", "stage": seed})
    return keyed(scan, rows)


def ssim(a: np.ndarray, b: np.ndarray, *, width: int = 7) -> float:
    """Structural similarity of two maps (Wang2004), each divided by its largest magnitude; 1 = identical.

    Averaged where either map exceeds 1 % of its largest magnitude: two maps do not agree because both are 0 far away.
    """
    scaled = [x / m if (m := float(np.abs(x).max())) > 0 else x for x in (a.astype(float), b.astype(float))]
    x, y = scaled
    mx, my = (ndimage.uniform_filter(v, width) for v in scaled)
    vx, vy = (ndimage.uniform_filter(v * v, width) - m * m for v, m in ((x, mx), (y, my)))
    cross = ndimage.uniform_filter(x * y, width) - mx * my
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2  # the values span -1..1
    quality = (2 * mx * my + c1) * (2 * cross + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2))
    there = (np.abs(x) > 0.01) | (np.abs(y) > 0.01)
    return float(quality[there].mean()) if there.any() else 1.0


def sanity_finding(rows: pd.DataFrame, rng: np.random.Generator) -> Finding:
    """Similarity against how much of the network was drawn anew, against what chance maps reach; stability."""
    if not len(rows):
        return Finding("No lesion was found: there is no map to check.")
    sentences = [f"{patients_note(rows)}."]
    charts, panels, tables = [], [], {}
    chance = {test: rows[rows["test"] == test] for test in CHANCE if (rows["test"] == test).any()}
    lines: dict[str, list[Line]] = {measure: [] for measure in SIMILARITIES}
    for mode in ("cascading", "independent"):
        part = rows[rows["test"] == mode]
        if not len(part):
            continue
        for measure, marks in lines.items():
            marks.append(_curve(part, measure, mode, rng))
        sentences.append(_randomised_sentence(part, mode, rng))
        keys = ["stage", "fraction"]
        tables[f"sanity_{mode}"] = part.groupby(keys)[list(SIMILARITIES)].mean().reset_index()
    for test, part in chance.items():
        signed, magnitude, structure = (mean_of(part, measure, rng) for measure in SIMILARITIES)
        sentences.append(f"{CHANCE[test]} reaches {signed} (signed), {magnitude} (magnitudes), {structure} (SSIM).")
        for measure, marks in lines.items():
            if marks:
                marks.append(Line(f"{test} map", [0.0, 1.0], [mean_of(part, measure, rng).estimate] * 2))
    for measure, label in SIMILARITIES.items():
        if lines[measure]:
            panels.append(Panel(label, "", "likeness to the original map", lines[measure], zero_line=True))
    if panels:
        few = rows["subject"].nunique() < MIN_PATIENTS
        bands = f"No bands: fewer than {MIN_PATIENTS} patients." if few else "Bands: 95 % over patients."
        charts.append(
            Chart(
                "sanity_randomisation",
                "Does the map depend on what the network learned?",
                [replace(panel, x_label="weights drawn anew (share of layers)") for panel in panels],
                "1 = the same map, 0 = nothing in common. Cascading: from the output inwards, added up; "
                "independent: one group of layers at a time, placed at how far inwards it lies. Horizontal: what a shuffled map "
                f"and another lesion's map reach. {bands}",
                sample=patients_note(rows),
            )
        )
    beyond = rows[rows["test"] == "beyond reach"]
    if len(beyond):
        worst = float(beyond["value"].max())
        verdict = "exactly 0, as it must be" if worst == 0 else f"up to {worst:.3g}, which must not be"
        sentences.append(f"Beyond the network's receptive field the map is {verdict}.")
    else:
        sentences.append(
            "No voxel is known to lie beyond the network's receptive field, so nothing there can be checked."
        )
    sentences += _stability(rows, tables)
    repeat, chart = _repeats(rows)
    if repeat is not None and chart is not None:
        tables["sanity_repeat"] = repeat
        charts.append(chart)
        pairs = len(repeat.drop_duplicates(["scan", "lesion"]))
        sentences.append(
            f"{pairs} times a lesion was found again in the patient's next scan: its peak differed by {_differences(repeat)} "
            "(median)."
        )
    return Finding(" ".join(sentences), tuple(charts), tables)


def _curve(part: pd.DataFrame, measure: str, mode: str, rng: np.random.Generator) -> Line:
    """Likeness against the share of layers: drawn anew so far (cascading), or reached from the output (independent)."""
    stages = list(part.groupby("stage"))
    x = [float(group["fraction"].iloc[0]) for _, group in stages]
    if mode == "independent":
        x = list(np.cumsum(x))
    points = [mean_of(group, measure, rng) for _, group in stages]
    y, low, high = ([getattr(one, side) for one in points] for side in ("estimate", "low", "high"))
    if mode == "cascading":
        x, y, low, high = [0.0, *x], [1.0, *y], [1.0, *low], [1.0, *high]
    return Line(mode, x, y, low, high, markers=True)


def _randomised_sentence(part: pd.DataFrame, mode: str, rng: np.random.Generator) -> str:
    if mode == "cascading":
        last, when = part[part["stage"] == part["stage"].max()], "With all weights drawn anew"
    else:
        groups = part["stage"].nunique()
        last, when = part, f"With one of {groups} group{'s' if groups != 1 else ''} of layers drawn anew (mean of them)"
    magnitude, signed = mean_of(last, "spearman_magnitude", rng), mean_of(last, "spearman", rng)
    return (
        f"{when} the maps' magnitudes correlate with the originals by {magnitude} (Spearman), signed values by {signed}, and "
        f"SSIM is {mean_of(last, 'ssim', rng)}."
    )


def _stability(rows: pd.DataFrame, tables: dict[str, pd.DataFrame]) -> list[str]:
    seeds = rows[rows["test"] == "seed"]
    if not len(seeds):
        return ["Seeds were not compared (none asked for, or the method draws nothing at random)."]
    out, table = [], []
    for channel, part in seeds.groupby("channel", sort=False):
        wide = part.pivot_table(index=["scan", "lesion"], columns="stage", values="value").dropna()
        if wide.shape[0] > 1 and wide.shape[1] > 1:
            agreement = icc_agreement(wide.to_numpy(dtype=float))
            table.append({"channel": channel, "icc": agreement, "lesions": wide.shape[0], "seeds": wide.shape[1]})
            out.append(f"{channel}: peaks under {wide.shape[1]} seeds agree with ICC(2,1) = {agreement:.3f}.")
    tables["sanity_seeds"] = pd.DataFrame(table)
    return out


def _repeats(rows: pd.DataFrame, *, within_mm: float = 4.0) -> tuple[pd.DataFrame | None, Chart | None]:
    """Peaks of one lesion in repeated scans of a patient; lesions are the same if their centres lie within 4 mm."""
    part = rows[rows["test"] == "repeat"]
    pairs = []
    for (subject, channel), mine in part.groupby(["subject", "channel"], sort=False):
        scans = [group for _, group in mine.groupby("scan", sort=True)]
        for first, second in pairwise(scans):
            places = second[["x_mm", "y_mm", "z_mm"]].to_numpy(dtype=float)
            for row in first.to_dict("records"):
                gap = np.linalg.norm(places - [row["x_mm"], row["y_mm"], row["z_mm"]], axis=1)
                if len(gap) and gap.min() <= within_mm:
                    again = float(second["value"].iloc[int(gap.argmin())])
                    size = 0.5 * (abs(row["value"]) + abs(again))
                    facts = {"subject": subject, "scan": row["scan"], "lesion": row["lesion"], "channel": channel}
                    facts |= {"first": row["value"], "second": again}
                    pairs.append({**facts, "relative_difference": abs(row["value"] - again) / size if size else 0.0})
    if not pairs:
        return None, None
    table = pd.DataFrame(pairs)
    marks = [
        Violin(str(name), 100.0 * group["relative_difference"].to_numpy(dtype=float), lesions=lesions_of(group))
        for name, group in table.groupby("channel", sort=False)
    ]
    panel = Panel("", "", "difference of the peak (%)", marks)
    note = f"{table['subject'].nunique()} patient{'s' if table['subject'].nunique() != 1 else ''} scanned again"
    return table, Chart(
        "sanity_repeat",
        "Does a lesion keep its peak when the patient is scanned again?",
        (panel,),
        "Each point is a lesion in two consecutive scans of one patient (centres within 4 mm), as a percentage of the mean peak.",
        sample=f"{note}, {len(table.drop_duplicates(['scan', 'lesion']))} pairs",
    )


def _differences(repeat: pd.DataFrame) -> str:
    medians = repeat.groupby("channel", sort=False)["relative_difference"].median()
    return ", ".join(f"{value:.0%} in {channel}" for channel, value in medians.items())


def _compared(
    scan: Scan, one: Instance, view: np.ndarray, other: np.ndarray, facts: dict[str, Any]
) -> list[dict[str, Any]]:
    rows = []
    for channel, a, b in zip(scan.channels, view, other, strict=True):
        rows.append(
            {
                "lesion": one.label, "outcome": one.outcome, "channel": channel, **facts,
                "spearman": _rank(a, b), "spearman_magnitude": _rank(np.abs(a), np.abs(b)), "ssim": ssim(a, b),
            }
        )  # fmt: skip
    return rows


def _rank(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's correlation; NaN where a map is constant."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(spearmanr(a.ravel(), b.ravel()).statistic)


def _beyond_reach(scan: Scan, one: Instance, found: Attribution) -> list[dict[str, Any]]:
    """Largest |M| at voxels that no voxel of Omega can see; nothing for networks of unbounded or unknown reach."""
    reach = scan.model.spec.receptive_field_vox
    if reach is None or not (
        scan.placement.to_network.is_identity or getattr(scan.placement.to_network, "is_gather", False)
    ):
        return []
    # A field of n voxels need not be centred (strides): what is certain is that n voxels away nothing is seen.
    margin = max(reach) - 1
    shape = scan.case.image.shape
    seen = Box.around(one.voxels, margin=margin, shape=shape)
    near = ndimage.distance_transform_cdt(~one.mask(shape)[seen.slices], metric="chessboard") <= margin
    if seen == Box.whole(shape) and near.all():
        return []
    whole = np.zeros((len(scan.channels), *scan.case.image.shape), dtype=found.data.dtype)
    whole[(slice(None), *found.box.slices)] = found.data
    whole[(slice(None), *seen.slices)][:, near] = 0
    return [
        {
            "lesion": one.label,
            "outcome": one.outcome,
            "channel": c,
            "test": "beyond reach",
            "value": float(np.abs(v).max()),
        }
        for c, v in zip(scan.channels, whole, strict=True)
    ]


def _peaks(scan: Scan, one: Instance, found: Attribution, facts: dict[str, Any]) -> list[dict[str, Any]]:
    x, y, z = one.centroid_mm
    place = {"x_mm": x, "y_mm": y, "z_mm": z}
    return [
        {"lesion": one.label, "outcome": one.outcome, "channel": c, **facts, "value": float(peak), **place}
        for c, peak in zip(scan.channels, found.peak, strict=True)
    ]


def _around(scan: Scan, one: Instance) -> Box:
    margin = int(np.ceil(_AROUND_MM / min(scan.sizes_mm)))
    return Box.around(one.voxels, margin=margin, shape=scan.case.image.shape)


def _cut(found: Attribution, box: Box, channels: int, *, shift: np.ndarray | None = None) -> np.ndarray:
    """The map on a box of the scan's grid, moved by `shift` first; 0 where it says nothing."""
    out = np.zeros((channels, *box.shape), dtype=found.data.dtype)
    lies = found.box if shift is None else found.box.shifted((int(shift[0]), int(shift[1]), int(shift[2])))
    both = lies.intersection(box)
    if not both.is_empty:
        out[(slice(None), *both.relative_to(box).slices)] = found.data[(slice(None), *both.relative_to(lies).slices)]
    return out


def _centre(one: Instance) -> np.ndarray:
    return np.round(one.voxels.mean(axis=0)).astype(int)


EXPERIMENT = Experiment(
    name="sanity",
    question="Is the map about this network, this scan and this lesion?",
    rows_fn=sanity_rows,
    group_fn=sanity_finding,
    needs_maps=False,
    defaults={"method": None, "stages": 5, "modes": ("cascading", "independent"), "seeds": 3},
)
