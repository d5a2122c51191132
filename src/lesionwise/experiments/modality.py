"""Which channel the network relies on, lesion by lesion (METHOD section 5, point 1)."""

from collections.abc import Mapping
from itertools import combinations
from math import comb
from typing import Any

import numpy as np
import pandas as pd
import torch

from lesionwise.asking.probe import Probe
from lesionwise.asking.scan import Scan
from lesionwise.attribution import IntegratedGradients
from lesionwise.charts.chart import Bar, Chart, Panel
from lesionwise.experiments.experiment import Experiment, Finding, keyed, mean_of, outcome_of, patients_note, present
from lesionwise.stats import Interval

SHARES: Mapping[str, str] = {
    "share": "share of the map's mass",
    "shapley_share": "share of the lesion's evidence (Shapley)",
}
COSTS: Mapping[str, str] = {
    "loss": "lesion painted over in this channel alone",
    "blank": "whole channel blanked (occlusion)",
}
DETAILS = ("peak", "trough", "mass", "shapley", "loss_probability", "ig", "ig_share")
"""Measures that are in the table but not in the figure."""
_ROUNDING = 1e-5
"""Share of the evidence below which a channel's part of the other sign is rounding, and no disagreement."""


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
        probe = scan.probe(instance).keeping()
        worth, evidence, loss, loss_p = _lesion_game(probe, rng=scan.rng(instance.label, 1))
        blanks = []
        for channel in range(len(scan.channels)):
            x = probe.base.clone()
            x[channel] = 0.0
            blanks.append(x)
        blanked = [reading[0].target_mean for reading in probe.read(blanks)]
        same_sign = all(w * evidence >= -_ROUNDING * evidence**2 for w in worth) and evidence != 0
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
    """Every measure per channel and outcome with patient-level intervals, and the channel that is relied on."""
    if not len(rows):
        return Finding("No lesion was found: there is nothing to say about channels.")
    channels = list(dict.fromkeys(rows["channel"]))
    outcomes = present(rows)
    known = {
        (measure, outcome, name): mean_of(rows[(outcome_of(rows) == outcome) & (rows["channel"] == name)], measure, rng)
        for measure in (*SHARES, *COSTS, *DETAILS)
        if measure in rows and rows[measure].notna().any()
        for outcome in outcomes
        for name in channels
    }
    table = [
        {"measure": measure, "outcome": outcome, "channel": name, "estimate": one.estimate, "low": one.low}
        | {"high": one.high, "patients": one.n_patients, "note": one.note}
        for (measure, outcome, name), one in known.items()
    ]
    sentences = [f"{patients_note(rows)}."]
    sentences += [_relied(outcome, channels, known) for outcome in outcomes]
    lesions = rows.drop_duplicates(["scan", "lesion"])
    left_out = int(lesions["shapley_share"].isna().sum())
    if left_out:
        sentences.append(f"In {left_out} of {len(lesions)} lesions channels disagreed in sign and no share is given.")
    sentences += _completeness(rows, lesions)
    sentences.append("Published: FLAIR dominates MPRAGE; no figures are known.")
    panels = []
    for measure, label in {**SHARES, **COSTS}.items():
        bars = [
            Bar(outcome, one.estimate, one.low, one.high, series=str(name))
            for outcome in outcomes
            for name in channels
            if (one := known.get((measure, outcome, name))) is not None and np.isfinite(one.estimate)
        ]
        if bars:
            panels.append(Panel(label, "", "share" if measure in SHARES else "fall of the target", bars))
    chart = Chart(
        "modality",
        "Which channel does the network rely on?",
        panels,
        "Bars: mean over patients, with 95 % interval where there are six patients or more. Falls are in units of the target "
        "(log-odds unless told otherwise): a fall of 4.6 takes a probability of .99 to .5.",
        columns=2,
        sample=patients_note(rows),
    )
    return Finding(" ".join(sentences), (chart,) if panels else (), {"modality": pd.DataFrame(table)})


def _relied(outcome: str, channels: list[str], known: Mapping[tuple[str, str, str], Interval]) -> str:
    """One outcome's sentence: who holds the map and the evidence, and what is lost without each channel."""

    def top(measure: str) -> str:
        there = {name: known[measure, outcome, name] for name in channels if (measure, outcome, name) in known}
        there = {name: one for name, one in there.items() if np.isfinite(one.estimate)}
        if not there:
            return ""
        best = max(there, key=lambda name: there[name].estimate)
        return f"{best} holds {there[best]} of the {SHARES[measure].removeprefix('share of the ')}"

    def words(measure: str) -> str:
        return ", ".join(f"{known[measure, outcome, name]} in {name}" for name in channels)

    parts = [part for part in map(top, SHARES) if part]
    parts.append(f"painting healthy tissue over the lesion in one channel alone costs {words('loss')}")
    parts.append(f"blanking a whole channel costs {words('blank')}")
    return f"{outcome}: {'; '.join(parts)} (in units of the target)."


def _completeness(rows: pd.DataFrame, lesions: pd.DataFrame) -> list[str]:
    """How far Integrated Gradients' contributions miss y(x) - y(x')."""
    if "completeness_error" not in rows or not len(lesions):
        return []
    total = rows.groupby(["scan", "lesion"])["ig"].sum().abs()
    error = lesions.set_index(["scan", "lesion"])["completeness_error"].abs()
    relative = (error / total.where(total > 0)).dropna()
    given = int(lesions["ig_share"].notna().sum())
    if not len(relative):
        return []
    return [
        f"Integrated Gradients miss what they must add up to by {relative.median():.0%} (median over lesions); their shares "
        f"are given for {given} of {len(lesions)}."
    ]


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
