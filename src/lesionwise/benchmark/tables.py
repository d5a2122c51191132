"""From the rows of all patients to the tables, the figure and the sentences."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lesionwise.benchmark.contestants import Contestant
from lesionwise.benchmark.judge import RIVALS, TRUE
from lesionwise.benchmark.rules import RULES
from lesionwise.benchmark.scores import SCORES
from lesionwise.charts.chart import Bar, Chart, Heat, Panel
from lesionwise.stats import Interval, mean_over_patients

ALL = "all"
"""The row over all rules: every patient's mean over the rules."""
LEARNT = 0.5
"""Share of the blobs asked about, in which the causes must hold for a rule to count as learnt."""
FIRST = 0.9
"""Share of lesions in which a measure must rank the true map first to be called right."""
TOO_FEW_PATIENTS = "too few patients"
"""For a verdict."""
CHANCE = 1 / (1 + len(RIVALS))
_BOUNDS = {name: (-1.0, 1.0) if name == "sign" else (0.0, 1.0) for name in SCORES}


@dataclass(frozen=True, eq=False)
class Benchmark:
    """What was found: sentences, the figure, the tables by name."""

    text: str
    chart: Chart
    tables: Mapping[str, pd.DataFrame]


def tabulate(rows: pd.DataFrame, chosen: Sequence[Contestant], rng: np.random.Generator) -> Benchmark:
    """Tables `verification`, `benchmark`, `measures` and `lesions` from rows of `judge`."""
    parts = {name: part.dropna(axis=1, how="all") for name, part in rows.groupby("part", sort=False)}
    verification = _verification(parts["verified"], rng)
    scores = parts.get("scores", pd.DataFrame())
    benchmark = _scores(scores, rng) if len(scores) else pd.DataFrame()
    measures = _measures(parts["measures"], rng) if "measures" in parts else pd.DataFrame()
    lesions = rows.drop(columns=[name for name in ("seconds",) if name in rows])
    labels = {one.name: one.label or one.name for one in chosen}
    text = " ".join([*_said_of_rules(verification), *_said_of_methods(benchmark), *_said_of_measures(measures)])
    tables = {"verification": verification, "benchmark": benchmark, "measures": measures, "lesions": lesions}
    return Benchmark(text, _chart(benchmark, labels, rows), tables)


def _verification(rows: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """One row per rule: how many blobs, how many decided as the rule says, in how many the planted cause holds."""
    out = []
    for rule, part in rows.groupby("rule", sort=False):
        asked = part[part["asked"].astype(bool)]
        facts = {"rule": rule, "sentence": RULES[str(rule)].sentence, "patients": part["subject"].nunique()}
        facts |= {"blobs": len(part), "asked": len(asked)}
        facts |= _named("decided", _mean(part, "decided", rng, (0.0, 1.0)))
        for name in ("turned", "monotone", "untouched", "holds"):
            if name in asked:
                facts |= _named(name, _mean(asked, name, rng, (0.0, 1.0)))
        facts["judged"] = int(asked["holds"].astype(float).sum()) if "holds" in asked else 0
        facts["learnt"] = bool(facts["judged"] >= LEARNT * len(asked) and len(asked))
        out.append(facts)
    return pd.DataFrame(out)


def _scores(rows: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """One row per method and rule, and one over all rules, best by `named` (then `place`) first."""
    out = []
    for method, part in rows.groupby("method", sort=False):
        for rule in (ALL, *part["rule"].unique()):
            own = part if rule == ALL else part[part["rule"] == rule]
            facts = {"method": method, "rule": rule, "family": own["family"].iloc[0]}
            facts["kind"] = ", ".join(sorted({str(k) for k in own.get("kind", pd.Series(dtype=str)).dropna()}))
            facts |= {"patients": own["subject"].nunique(), "lesions": len(own)}
            for name in SCORES:
                facts |= _named(name, _mean(own, name, rng, _BOUNDS[name]))
            if "seconds" in own:
                facts["seconds_per_lesion"] = float(own["seconds"].mean())
            notes = own["note"].dropna().unique() if "note" in own else []
            facts["note"] = "; ".join(map(str, notes))
            out.append(facts)
    table = pd.DataFrame(out)
    overall = table[table["rule"] == ALL].set_index("method")
    ranked = overall.sort_values(["named", "place"], ascending=False, na_position="last").index
    place = {name: position for position, name in enumerate(ranked)}
    rules = {name: position for position, name in enumerate((ALL, *RULES))}
    order = table.assign(a=table["method"].map(place), b=table["rule"].map(rules)).sort_values(["a", "b"])
    return order.drop(columns=["a", "b"]).reset_index(drop=True)


def _measures(rows: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """One row per measure: in what share of lesions it ranks the true map first, over all rules and by rule."""
    out = []
    for measure, part in rows.groupby("measure", sort=False):
        facts = {"measure": measure, "patients": part["subject"].nunique(), "lesions": _count(part, "first")}
        interval = _mean(part, "first", rng, (0.0, 1.0))
        facts |= _named("first", interval)
        facts["verdict"] = verdict(interval)
        for rule in part["rule"].unique():
            facts[f"first_{rule}"] = _mean(part[part["rule"] == rule], "first", rng, (0.0, 1.0)).estimate
        out.append(facts)
    return pd.DataFrame(out).sort_values("first", ascending=False, ignore_index=True)


def verdict(first: Interval) -> str:
    """In words: "right" from `FIRST` on, "fails" where the interval does not pass chance."""
    if not np.isfinite(first.estimate):
        return "not asked"
    if not np.isfinite(first.low):
        return TOO_FEW_PATIENTS
    if first.estimate >= FIRST:
        return "right"
    return "in part" if first.low > CHANCE else "fails"


def _mean(rows: pd.DataFrame, column: str, rng: np.random.Generator, bounds: tuple[float, float]) -> Interval:
    """Mean over patients of their mean over rules of the mean over lesions, with its interval."""
    if column not in rows:
        return Interval(np.nan, np.nan, np.nan, 0, note="no values")
    values = rows.assign(**{column: rows[column].astype(float)})
    each = values.groupby(["subject", "rule"], sort=True)[column].mean().reset_index()
    return mean_over_patients(
        each[column].to_numpy(dtype=float), each["subject"].to_numpy(dtype=str), rng=rng, bounds=bounds
    )


def _count(rows: pd.DataFrame, column: str) -> int:
    return int(rows[column].notna().sum()) if column in rows else 0


def _named(name: str, interval: Interval) -> dict[str, float]:
    return {name: interval.estimate, f"{name}_low": interval.low, f"{name}_high": interval.high}


def _said_of_rules(table: pd.DataFrame) -> list[str]:
    learnt, missed = table.loc[table["learnt"], "rule"], table.loc[~table["learnt"], "rule"]
    judged, asked, patients = (int(n) for n in (table["judged"].sum(), table["asked"].sum(), table["patients"].max()))
    said = [
        f"{judged} of {asked} planted lesions in {_patients(patients)} are judged: those in which taking the cause away "
        "turned the network's decision."
    ]
    if len(missed):
        said.append(f"Not learnt (the cause holds in fewer than {LEARNT:.0%}): {', '.join(missed)}.")
    elif len(learnt):
        said.append(f"Learnt: {', '.join(learnt)}.")
    return said


def _said_of_methods(table: pd.DataFrame) -> list[str]:
    if table.empty:
        return ["No lesion could be judged."]
    own = table[(table["rule"] == ALL) & (table["family"] != "truth")]
    known = own.dropna(subset=["named"])
    said = []
    if len(known):
        best, last = known.iloc[0], known.iloc[-1]
        said.append(
            f"Best at naming region, channel and sign: {best['method']}, right in {best['named']:.0%} of lesions"
            f"{_between(best)}; last: {last['method']}, {last['named']:.0%}."
        )
    blind = own.loc[own["named"].isna() & own["place"].notna(), "method"]
    if len(blind):
        said.append(f"Without channel or sign, by their nature: {', '.join(blind)}.")
    away = own.loc[own["place"].isna(), "method"]
    if len(away):
        said.append(f"Could not be applied (see `note`): {', '.join(away)}.")
    return said


def _between(row: pd.Series) -> str:
    return f" [{row['named_low']:.0%}, {row['named_high']:.0%}]" if np.isfinite(row["named_low"]) else ""


def _said_of_measures(table: pd.DataFrame) -> list[str]:
    if table.empty:
        return []
    said = []
    words = {
        "right": "rank the true map first",
        "in part": "do so more often than chance but not reliably",
        "fails": "fail to",
        TOO_FEW_PATIENTS: "ranked it first in so many lesions of too few patients for a verdict",
    }
    for word, sentence in words.items():
        names = table.loc[table["verdict"] == word]
        if len(names):
            each = ", ".join(f"{row['measure']} ({row['first']:.0%})" for _, row in names.iterrows())
            said.append(f"Measures of faithfulness that {sentence}: {each}.")
    return said


def _chart(table: pd.DataFrame, labels: Mapping[str, str], rows: pd.DataFrame) -> Chart:
    """Who names the cause, overall with intervals and rule by rule."""
    caption = (
        "A map names the cause if its strongest region x channel x sign is the planted one. Lines: 95 % over patients (six or "
        "more). In brackets: the true map and wrong ones made of it, between which every method lies. Class activation maps "
        "have neither channel nor sign and are left out."
    )
    sample = f"Synthetic: {_patients(rows['subject'].nunique())} per rule"
    if table.empty:
        return Chart("benchmark", "Which map names what made the network decide?", [], caption, sample=sample)
    overall = table[(table["rule"] == ALL) & table["named"].notna()]
    names = [_label(row, labels) for _, row in overall.iterrows()]
    bars = [
        Bar(
            name,
            row["named"],
            row["named_low"],
            row["named_high"],
            "#999999" if row["family"] == "truth" else "#0072B2",
        )
        for name, (_, row) in zip(names, overall.iterrows(), strict=True)
    ]
    rules = [rule for rule in RULES if (table["rule"] == rule).any()]
    values = table.pivot_table(index="method", columns="rule", values="named", dropna=False)
    grid = values.reindex(index=overall["method"], columns=rules).to_numpy(dtype=float)
    heat = Heat(rules, names[::-1], grid[::-1], "share of lesions", (0.0, 1.0))
    return Chart(
        "benchmark",
        "Which map names what made the network decide?",
        [
            Panel("names the cause, all rules", "share of lesions", "", bars, horizontal=True, x_limits=(0.0, 1.0)),
            Panel("rule by rule", "", "", [heat]),
        ],
        caption,
        sample=sample,
    )


def _label(row: pd.Series, labels: Mapping[str, str]) -> str:
    name = str(row["method"])
    if name == TRUE or row["family"] == "truth":
        return f"({name})"
    return labels.get(name, name)


def _patients(count: int) -> str:
    return f"{count} patient{'s' if count != 1 else ''}"
