"""Which channel the network relies on, lesion by lesion (METHOD section 5, point 1)."""

from collections.abc import Mapping
from itertools import combinations
from math import comb
from typing import Any

import numpy as np
import pandas as pd
import torch

from lesionwise.attribution import IntegratedGradients
from lesionwise.experiments.chart import Bar, Chart, Panel
from lesionwise.experiments.experiment import Experiment, Finding, keyed, outcome_of, patients_note, present
from lesionwise.experiments.scan import Probe, Scan
from lesionwise.stats import Interval, mean_over_patients

MEASURES: Mapping[str, str] = {
    "share": "share of the map's mass",
    "shapley_share": "share of the lesion's evidence (Shapley)",
}


def modality_rows(scan: Scan, *, ig_steps: int = 16) -> pd.DataFrame:
    """One row per lesion and channel.

    From the map: peak, trough, mass (sum of |M|) and share of the mass. From the network itself, with healthy tissue
    painted over the lesion: `shapley` is the channel's exact Shapley value over all subsets of channels that may show
    the lesion (they add up to `evidence` = y(scan) - y(scan without the lesion)); `loss` is what the target loses when
    this channel alone no longer shows it, `loss_probability` the same for the mean probability. `blank` is the loss when
    the whole channel is replaced by its mean. `ig` are Integrated Gradients' contributions against the same kind of
    baseline with their completeness error, `ig_share` missing where METHOD section 4 allows none; `ig_steps=0` leaves
    them out. Shares of Shapley values are given where all have the sign of their sum.
    """
    rows: list[dict[str, Any]] = []
    chosen = scan.chosen
    integrated = scan.attribute(chosen, IntegratedGradients(n_steps=ig_steps)) if ig_steps and chosen else []
    table = scan.explained.lesions.set_index("lesion") if len(scan.explained.lesions) else None
    for number, instance in enumerate(chosen):
        probe = scan.probe(instance)
        worth, evidence, loss, loss_p = _lesion_game(probe, rng=scan.rng(instance.label, 1))
        blanks = []
        for channel in range(len(scan.channels)):
            x = probe.base.clone()
            x[channel] = 0.0
            blanks.append(x)
        blanked = [reading[0].target_mean for reading in probe.read(blanks)]
        same_sign = all(w * evidence >= 0 for w in worth) and evidence != 0
        for channel, name in enumerate(scan.channels):
            row: dict[str, Any] = {
                "lesion": instance.label,
                "outcome": instance.outcome,
                "volume_mm3": instance.volume_mm3,
                "channel": name,
                "shapley": worth[channel],
                "shapley_share": worth[channel] / evidence if same_sign else np.nan,
                "evidence": evidence,
                "loss": loss[channel],
                "loss_probability": loss_p[channel],
                "blank": probe.unchanged[0].target_mean - blanked[channel],
            }
            if table is not None and instance.label in scan.maps:
                measured = table.loc[instance.label]
                row |= {key: measured[f"{key}_{name}"] for key in ("peak", "trough", "share")}
                row["mass"] = measured[f"mass_in_{name}"] + measured[f"mass_out_{name}"]
            if integrated:
                facts = integrated[number].details
                shares = facts["shares"]
                row["ig"] = facts["contributions"][channel]
                row["ig_share"] = np.nan if shares is None else shares[channel]
                row["completeness_error"] = facts["completeness_error"]
            rows.append(row)
    return keyed(scan, rows)


def modality_finding(rows: pd.DataFrame, rng: np.random.Generator) -> Finding:
    """Shares per channel and outcome with patient-level intervals, and the channel that is relied on."""
    if not len(rows):
        return Finding("No lesion was found: there is nothing to say about channels.")
    channels = list(dict.fromkeys(rows["channel"]))
    panels, sentences = [], [f"{patients_note(rows)}."]
    table: list[dict[str, Any]] = []
    for measure, label in MEASURES.items():
        if measure not in rows or not rows[measure].notna().any():
            continue
        bars = []
        for outcome in present(rows):
            part = rows[outcome_of(rows) == outcome]
            by_channel = {name: _mean(part[part["channel"] == name], measure, rng) for name in channels}
            for number, (name, one) in enumerate(by_channel.items()):
                bars.append(
                    Bar(f"{outcome} {name}", one.estimate, one.low, one.high, ("#0072B2", "#E69F00")[number % 2])
                )
                facts = {"estimate": one.estimate, "low": one.low, "high": one.high, "note": one.note}
                table.append({"measure": measure, "outcome": outcome, "channel": name, **facts})
            known = {name: one.estimate for name, one in by_channel.items() if np.isfinite(one.estimate)}
            if known:
                top = max(known, key=lambda name: known[name])
                sentences.append(
                    f"{outcome}: {top} holds {by_channel[top]} of the {label.removeprefix('share of the ')}."
                )
        panels.append(Panel(label, "", "share", bars))
    defined = rows.drop_duplicates(["scan", "lesion"])
    left_out = int(defined["shapley_share"].isna().sum())
    if left_out:
        sentences.append(f"In {left_out} of {len(defined)} lesions channels disagreed in sign and no share is given.")
    sentences.append(_relied(rows, channels, rng))
    sentences.append("Published: FLAIR dominates MPRAGE; no figures are known.")
    chart = Chart("modality", "Which channel the network relies on", panels, "Bars: mean over patients, 95 % interval.")
    return Finding(" ".join(sentences), (chart,) if panels else (), {"modality": pd.DataFrame(table)})


def _mean(part: pd.DataFrame, column: str, rng: np.random.Generator) -> Interval:
    return mean_over_patients(part[column].to_numpy(dtype=float), part["subject"].to_numpy(dtype=str), rng=rng)


def _relied(rows: pd.DataFrame, channels: list[str], rng: np.random.Generator) -> str:
    """What is lost when one channel alone stops showing the lesion."""
    losses = {name: _mean(rows[rows["channel"] == name], "loss", rng) for name in channels}
    words = ", ".join(f"{one} with {name}" for name, one in losses.items())
    return f"Painting healthy tissue over the lesion in one channel alone costs, in units of the target: {words}."


def _lesion_game(probe: Probe, *, rng: np.random.Generator) -> tuple[list[float], float, list[float], list[float]]:
    """Shapley value of each channel's view of the lesion, their sum, and the losses when one view is missing."""
    count = probe.base.shape[0]
    without = probe.inpainted(probe.lesion(), rng=rng)
    coalitions = [frozenset(c) for size in range(count + 1) for c in combinations(range(count), size)]
    inputs = []
    for coalition in coalitions:
        shows = torch.tensor([channel in coalition for channel in range(count)]).reshape(-1, 1, 1, 1)
        inputs.append(torch.where(shows, probe.base, without))
    readings = {c: reading[0] for c, reading in zip(coalitions, probe.read(inputs), strict=True)}
    value = {c: reading.target_mean for c, reading in readings.items()}
    everyone = frozenset(range(count))
    worth = []
    for channel in range(count):
        total = 0.0
        for coalition in (c for c in coalitions if channel not in c):
            weight = 1.0 / (count * comb(count - 1, len(coalition)))
            total += weight * (value[coalition | {channel}] - value[coalition])
        worth.append(total)
    loss = [value[everyone] - value[everyone - {channel}] for channel in range(count)]
    loss_p = [readings[everyone].score - readings[everyone - {channel}].score for channel in range(count)]
    return worth, value[everyone] - value[frozenset()], loss, loss_p


EXPERIMENT = Experiment(
    name="modality",
    question="Which channel does the network rely on?",
    rows_fn=modality_rows,
    group_fn=modality_finding,
    needs_maps=True,
    defaults={"ig_steps": 16},
)
