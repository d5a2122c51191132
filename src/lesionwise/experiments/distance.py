"""The sign of the map against the distance to the lesion's border (METHOD section 5, point 2)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from lesionwise.asking.scan import Scan
from lesionwise.charts.chart import Chart, Line, Panel
from lesionwise.charts.palette import outcome_style
from lesionwise.experiments.experiment import Experiment, Finding, keyed, outcome_of, patients_note, present
from lesionwise.stats import Interval, mean_over_patients, profile_over_patients

EDGES_MM = tuple(float(d) for d in range(-6, 41))
REACH = 0.95
VISIBLE = 0.002
"""Share of the largest value below which a profile is not worth the paper."""


def distance_rows(scan: Scan, *, edges_mm: Sequence[float] = EDGES_MM) -> pd.DataFrame:
    """One row per lesion, channel and shell (a, b] of signed Euclidean distance to the border in mm, inside negative.

    Voxels of other lesions are left out; voxels beyond the map's crop count as 0, which they are. `mean` is the mean
    signed value, `mass` the sum of |M|, `reach_mm` (the same in all rows of a lesion and channel) the distance outside
    the border within which 95 % of the mass lies, `reduce` how the map was made (mean or max over Omega). Shells without
    a voxel have no row.
    """
    rows: list[dict[str, Any]] = []
    edges = np.asarray(edges_mm, dtype=float)
    for instance in scan.chosen:
        saliency = scan.maps.get(instance.label)
        if saliency is None:
            continue
        box = saliency.box.union(scan.around(instance, edges[-1]))
        distance = scan.distance_mm(instance, box=box)
        inside = (scan.case.head & ~scan.others(instance))[box.slices]
        shell = np.searchsorted(edges, distance, side="left") - 1
        used = inside & (shell >= 0) & (shell < len(edges) - 1)
        counts = np.bincount(shell[used], minlength=len(edges) - 1)
        crop = saliency.box.relative_to(box).slices
        kept, number = used[crop], shell[crop]
        for channel, values in zip(saliency.channels, saliency.data, strict=True):
            sums = np.bincount(number[kept], weights=values[kept], minlength=len(edges) - 1)
            mass = np.bincount(number[kept], weights=np.abs(values[kept]), minlength=len(edges) - 1)
            reach = _reach(distance[crop], np.abs(values))
            for n in np.flatnonzero(counts):
                rows.append(
                    {
                        "lesion": instance.label,
                        "outcome": instance.outcome,
                        "volume_mm3": instance.volume_mm3,
                        "channel": channel,
                        "reduce": str(saliency.provenance.get("Reduce", "n/a")),
                        "from_mm": edges[n],
                        "to_mm": edges[n + 1],
                        "voxels": int(counts[n]),
                        "mean": sums[n] / counts[n],
                        "mass": mass[n],
                        "reach_mm": reach,
                    }
                )
    return keyed(scan, rows)


def sign_change_mm(x: np.ndarray, y: np.ndarray) -> float:
    """Where a profile first falls from positive to negative going outwards, by linear interpolation; NaN if nowhere."""
    known = np.isfinite(y) & (y != 0)  # beyond the network's reach the map is 0, which is not a change of sign
    x, y = x[known], y[known]
    falls = np.flatnonzero((y[:-1] > 0) & (y[1:] < 0))
    if not len(falls):
        return float("nan")
    n = int(falls[0])
    return float(x[n] + (x[n + 1] - x[n]) * y[n] / (y[n] - y[n + 1]))


def distance_finding(rows: pd.DataFrame, rng: np.random.Generator) -> Finding:
    """Profiles with patient-level bands, where the sign changes, how far the map reaches."""
    if not len(rows):
        return Finding("No lesion has a map: there is no profile.")
    reduce = ", ".join(sorted(set(rows["reduce"])))
    sentences = [f"{patients_note(rows)}; maps reduced by {reduce}."]
    panels, closer, table = [], [], []
    for channel in dict.fromkeys(rows["channel"]):
        lines = []
        for outcome in present(rows):
            part = rows[(rows["channel"] == channel) & (outcome_of(rows) == outcome)]
            if not len(part):
                continue
            x, profile = _profile(part, rng)
            y = np.array([one.estimate for one in profile])
            low, high = ([getattr(one, side) for one in profile] for side in ("low", "high"))
            lines.append(Line(outcome, x, y, low, high, outcome_style(outcome).colour))
            change = _per_patient_change(part, rng)
            lesions = part.drop_duplicates(["scan", "lesion"])
            reach = mean_over_patients(
                lesions["reach_mm"].to_numpy(dtype=float), lesions["subject"].to_numpy(dtype=str), rng=rng
            )
            inner, outer = y[x < 0], y[(x > 0) & (x < 5)]
            table.append(
                {
                    "channel": channel,
                    "outcome": outcome,
                    "mean_inside": float(np.nanmean(inner)) if len(inner) else np.nan,
                    "mean_0_5mm": float(np.nanmean(outer)) if len(outer) else np.nan,
                    "sign_change_mm": change.estimate,
                    "sign_change_low": change.low,
                    "sign_change_high": change.high,
                    "reach_mm": reach.estimate,
                    "reach_low": reach.low,
                    "reach_high": reach.high,
                }
            )
            sentences.append(_sentence(table[-1], change, reach))
        panels.append(_panel(str(channel), lines))
        closer.append(_panel(f"{channel}, enlarged around the lesion", lines, outside=True))
    sentences.append("Published: positive inside, negative in the neighbourhood.")
    caption = (
        f"Maps reduced by {reduce}; values are target units per standard deviation of the channel. Above 0: brighter here "
        "speaks for the lesion, below 0: against it. Bands: 95 % over patients, pointwise (six patients or more). Other lesions "
        "are left out."
    )
    chart = Chart(
        "distance",
        "Is the map positive inside a lesion and negative around it?",
        [*panels, *closer],
        caption,
        columns=len(panels),
        sample=f"{patients_note(rows)}; maps by {reduce}",
    )
    return Finding(" ".join(sentences), (chart,), {"distance": pd.DataFrame(table)})


def _panel(title: str, lines: list[Line], *, outside: bool = False) -> Panel:
    """The profiles as far as they are visible; `outside` enlarges what lies more than 1 mm outside the border."""
    x, y = (np.concatenate([np.asarray(getattr(line, axis), dtype=float) for line in lines]) for axis in ("x", "y"))
    largest = np.nanmax(np.abs(y)) if np.isfinite(y).any() else 0.0
    seen = x[np.abs(y) > VISIBLE * largest]
    right = min(float(x.max()), max(6.0, float(seen.max()) + 2.0) if len(seen) else 6.0)
    limits: tuple[float, float] | None = None
    if outside:
        beyond = y[(x > 1.0) & np.isfinite(y)]
        if len(beyond) and np.ptp(beyond) > 0:
            room = 0.25 * float(np.ptp(beyond))
            limits = (min(0.0, float(beyond.min())) - room, max(0.0, float(beyond.max())) + room)
    return Panel(
        title, "distance to the lesion's border (mm)", "mean of the map (target per SD)", lines, zero_line=True,
        x_limits=(float(x.min()) - 0.5, right), y_limits=limits, spans=[(float(x.min()) - 0.5, 0.0, "lesion")],
    )  # fmt: skip


def _sentence(row: dict[str, Any], change: Interval, reach: Interval) -> str:
    if not np.isfinite(row["reach_mm"]):
        return f"{row['outcome']}, {row['channel']}: the map is 0 everywhere."
    inside = "positive" if row["mean_inside"] > 0 else "negative"
    around = "positive" if row["mean_0_5mm"] > 0 else "negative"
    turn = f"the sign changes at {change} mm" if np.isfinite(change.estimate) else "the sign does not change"
    return (
        f"{row['outcome']}, {row['channel']}: {inside} inside, {around} on average within 5 mm outside; {turn}; "
        f"{REACH:.0%} of the mass lies within {reach} mm."
    )


def _profile(part: pd.DataFrame, rng: np.random.Generator) -> tuple[np.ndarray, list[Interval]]:
    wide = part.pivot_table(index=["subject", "scan", "lesion"], columns=["from_mm", "to_mm"], values="mean")
    x = np.array([0.5 * (a + b) for a, b in wide.columns])
    patients = wide.index.get_level_values("subject").to_numpy(dtype=str)
    return x, profile_over_patients(wide.to_numpy(dtype=float), patients, rng=rng)


def _per_patient_change(part: pd.DataFrame, rng: np.random.Generator) -> Interval:
    """Where each patient's mean profile changes sign, over patients."""
    changes, names = [], []
    for subject, mine in part.groupby("subject"):
        profile = mine.groupby("from_mm")["mean"].mean()
        middle = mine.groupby("from_mm")["to_mm"].first()
        x = 0.5 * (profile.index.to_numpy(dtype=float) + middle.to_numpy(dtype=float))
        changes.append(sign_change_mm(x, profile.to_numpy(dtype=float)))
        names.append(str(subject))
    return mean_over_patients(np.array(changes, dtype=float), names, rng=rng)


def _reach(distance: np.ndarray, magnitude: np.ndarray) -> float:
    """Distance outside the border within which 95 % of the mass lies; 0 if that is all inside."""
    flat, mass = np.maximum(distance.ravel(), 0.0), magnitude.ravel().astype(float)
    if not mass.sum() > 0:
        return float("nan")
    order = np.argsort(flat, kind="stable")
    cumulative = np.cumsum(mass[order])
    return float(flat[order][min(np.searchsorted(cumulative, REACH * cumulative[-1]), len(flat) - 1)])


EXPERIMENT = Experiment(
    name="distance",
    question="Is the map positive inside a lesion and negative around it, and how far does it reach?",
    rows_fn=distance_rows,
    group_fn=distance_finding,
    needs_maps=True,
    defaults={"edges_mm": EDGES_MM},
)
