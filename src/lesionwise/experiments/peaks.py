"""Peaks of the map by outcome, and what is left of them after size, probability and entropy (METHOD section 5.3)."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from lesionwise.asking.scan import Scan
from lesionwise.charts.chart import Chart, Panel, Violin
from lesionwise.charts.palette import outcome_style
from lesionwise.experiments.experiment import (
    OUTCOMES,
    Experiment,
    Finding,
    keyed,
    lesions_of,
    outcome_of,
    patients_note,
    present,
)
from lesionwise.stats import (
    MIN_PATIENTS,
    TOO_FEW,
    TestResult,
    kruskal_wallis,
    mann_whitney_pairs,
    patient_pairs,
    random_intercept_model,
    what_is_left,
)

COVARIATES = ("log_volume", "probability_mean", "probability_max", "entropy")


def peaks_rows(scan: Scan) -> pd.DataFrame:
    """One row per lesion and channel: the map's peak and what must be looked at beside it.

    `peak` is the largest signed value of the map (corrected for maximisation, METHOD section 3) with `peak_se`;
    `log_volume` = ln(mm3); `entropy` is the mean binary entropy of the probability over Omega, in bits.
    """
    rows: list[dict[str, Any]] = []
    if not len(scan.explained.lesions):
        return keyed(scan, rows)
    table = scan.explained.lesions.set_index("lesion")
    for instance in scan.chosen:
        if instance.label not in scan.maps:
            continue
        measured = table.loc[instance.label]
        p = np.clip(scan.explained.prediction[instance.index].astype(float), 1e-7, 1 - 1e-7)
        x, y, z = instance.centroid_mm
        for channel in scan.channels:
            rows.append(
                {
                    "lesion": instance.label,
                    "outcome": instance.outcome,
                    "channel": channel,
                    "reduce": str(scan.maps[instance.label].provenance.get("Reduce", "n/a")),
                    "peak": float(measured[f"peak_{channel}"]),
                    "peak_se": measured[f"peak_se_{channel}"],
                    "volume_mm3": instance.volume_mm3,
                    "log_volume": float(np.log(instance.volume_mm3)),
                    "probability_mean": float(p.mean()),
                    "probability_max": float(p.max()),
                    "entropy": float((-p * np.log2(p) - (1 - p) * np.log2(1 - p)).mean()),
                    "x_mm": x,
                    "y_mm": y,
                    "z_mm": z,
                }
            )
    return keyed(scan, rows)


def peaks_finding(rows: pd.DataFrame, rng: np.random.Generator) -> Finding:
    """Violins; the published tests on pooled lesions; the same with the patient as unit; what is left."""
    known = rows[rows["outcome"].notna()] if len(rows) else rows
    if not len(known):
        return Finding("No lesion has both a map and an outcome: peaks cannot be compared.")
    sentences = [f"{patients_note(known)}; maps reduced by {', '.join(sorted(set(known['reduce'])))}."]
    tables: dict[str, list[pd.DataFrame]] = {
        "peaks_pooled": [],
        "peaks_patients": [],
        "peaks_left": [],
        "peaks_mixed": [],
    }
    panels = []
    for (model, channel), part in known.groupby(["model", "channel"], sort=False):
        names = present(part)
        measured = {name: part[(outcome_of(part) == name) & part["peak"].notna()] for name in names}
        groups = {name: rows["peak"].to_numpy(dtype=float) for name, rows in measured.items()}
        marks = [
            Violin(name, groups[name], outcome_style(name).colour, lesions_of(rows)) for name, rows in measured.items()
        ]
        several = known["model"].nunique() > 1
        panels.append(
            Panel(f"{model}, {channel}" if several else str(channel), "", "peak of the map (target per SD)", marks)
        )
        where = {"model": model, "channel": channel}
        pooled, pairs = _pooled(groups, patients=part["subject"].nunique())
        tables["peaks_pooled"].append(pairs.assign(**where))
        units = patient_pairs(part, value="peak", group="outcome", patient="subject", order=OUTCOMES, rng=rng)
        tables["peaks_patients"].append(units.assign(**where))
        tables["peaks_mixed"].append(_mixed(part, names).assign(**where))
        left = _left(part, rng)
        tables["peaks_left"].append(left.assign(**where))
        sentences.append(_sentence(str(channel), groups, pooled, units, left))
    sentences.append("Published: TP > FP > FN > TN, all p < .001, lesions pooled as if they were independent.")
    caption = (
        "Each point is a lesion; the bar is the median. Peaks are in target units per standard deviation of the channel; by "
        "mean they shrink as lesions grow. Tests with the patient as unit are in peaks_patients."
    )
    reduce = ", ".join(sorted(set(known["reduce"])))
    chart = Chart(
        "peaks",
        "Do peaks of the map tell true lesions from false ones?",
        panels,
        caption,
        columns=known["channel"].nunique(),
        sample=f"{patients_note(known)}; maps by {reduce}",
    )
    joined = {name: pd.concat(parts, ignore_index=True) for name, parts in tables.items() if parts}
    return Finding(" ".join(sentences), (chart,), joined)


def _pooled(groups: dict[str, np.ndarray], *, patients: int) -> tuple[TestResult, pd.DataFrame]:
    """The published tests on pooled lesions. With fewer than six patients their p-values are left out like all others."""
    pooled, pairs = kruskal_wallis(groups), mann_whitney_pairs(groups)
    if patients < MIN_PATIENTS:
        pooled = replace(pooled, p=np.nan, note=TOO_FEW)
        pairs = pairs.assign(**{name: np.nan for name in ("p", "p_holm") if name in pairs})
    facts = {"kruskal_wallis_epsilon2": pooled.effect, "kruskal_wallis_p": pooled.p, "note": pooled.note}
    return pooled, pairs.assign(**facts)


def _sentence(
    channel: str, groups: dict[str, np.ndarray], pooled: TestResult, units: pd.DataFrame, left: pd.DataFrame
) -> str:
    medians = sorted(((float(np.median(v)), name) for name, v in groups.items() if len(v)), reverse=True)
    text = f"{channel}: median peaks fall from {' > '.join(f'{name} ({value:.3g})' for value, name in medians)}"
    if np.isfinite(pooled.effect):
        p = "" if np.isnan(pooled.p) else f", p = {pooled.p:.2g} if lesions were independent"
        text += f"; Kruskal-Wallis epsilon squared {pooled.effect:.2f}{p}"
    for row in units.itertuples():
        interval = "" if np.isnan(row.auc_low) else f" [{row.auc_low:.2f}, {row.auc_high:.2f}]"
        p = "" if np.isnan(row.p_holm) else f", p = {row.p_holm:.2g} over {row.patients} patients (Holm)"
        text += f"; AUC of {row.first} over {row.second} {row.auc:.2f}{interval}{p}"
    if len(left) and np.isfinite(left["together"].iloc[0]):
        row = left.iloc[0]
        bounds = "" if np.isnan(row["low"]) else f" [{row['low']:.3f}, {row['high']:.3f}]"
        text += (
            f"; TP against FP: the peak alone reaches AUC {row['alone']:.2f}, size, probability and entropy "
            f"{row['without']:.2f}, and the peak adds {row['difference']:+.3f}{bounds}"
        )
    return text + "."


def _mixed(part: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """Peak ~ outcome + size + probability + entropy + (1 | patient): effects of each outcome against the first."""
    rows = part.dropna(subset=["peak", *COVARIATES])
    others = [name for name in names[1:] if (outcome_of(rows) == name).any()]
    frames = []
    for label, covariates in (("outcome", ()), ("outcome given size, probability, entropy", COVARIATES)):
        columns = [np.ones(len(rows))]
        columns += [(outcome_of(rows) == name).to_numpy(dtype=float) for name in others]
        for name in covariates:
            values = rows[name].to_numpy(dtype=float)
            columns.append((values - values.mean()) / (values.std() or 1.0))
        x = np.column_stack(columns)
        if not others or len(rows) <= x.shape[1] or np.linalg.matrix_rank(x) < x.shape[1]:
            continue
        fit = random_intercept_model(
            rows["peak"].to_numpy(dtype=float), x, rows["subject"].to_numpy(dtype=str),
            names=["constant", *others, *covariates],
        )  # fmt: skip
        frames.append(
            pd.DataFrame(
                {
                    "adjusted": label,
                    "effect": others,
                    "against": names[0],
                    "estimate": fit.effects[1 : len(others) + 1],
                    "se": fit.robust_se[1 : len(others) + 1],
                    "p": fit.p[1 : len(others) + 1],
                    "p_all_outcomes": fit.joint_p(others),
                    "patients": fit.n_patients,
                    "note": fit.note,
                }
            )
        )
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def _left(part: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """TP against FP: what the peak adds to size, probability and entropy, for patients not seen in training."""
    two = part[part["outcome"].isin(["TP", "FP"])].assign(true=lambda frame: frame["outcome"] == "TP")
    left = what_is_left(two, label="true", feature="peak", covariates=COVARIATES, patient="subject", rng=rng)
    facts = {"alone": left.alone, "without": left.without, "together": left.together, "note": left.note}
    facts |= {"difference": left.difference.estimate, "low": left.difference.low, "high": left.difference.high}
    return pd.DataFrame([{**facts, "lesions": left.n_rows}])


EXPERIMENT = Experiment(
    name="peaks",
    question="Do peaks tell true lesions from false ones, beyond size, probability and uncertainty?",
    rows_fn=peaks_rows,
    group_fn=peaks_finding,
    needs_maps=True,
)
