"""What triage is worth: every set of features on patients it has not seen, with intervals and paired differences.

The patient is the unit: whole patients are drawn with replacement, the same ones for every set of features, so that
differences are paired. Lesions drawn by outcome are weighted back to all predicted lesions of their scan.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from lesionwise.stats.bootstrap import Interval, Scale, interval_from_draws
from lesionwise.stats.effects import weighted_auc
from lesionwise.stats.risk import Promise
from lesionwise.triage.families import BASELINES
from lesionwise.triage.fitting import operating_point, patient_shares
from lesionwise.triage.model import TriageModel, fit_model
from lesionwise.triage.retention import RETAINED, errors_left

SETS: Mapping[str, tuple[str, ...]] = {
    "probability": ("probability",),
    "baselines": BASELINES,
    "baselines + image": (*BASELINES, "image"),
    "disagreement": ("disagreement",),
    "structural uncertainty": ("structural",),
    "baselines + structural uncertainty": (*BASELINES, "structural"),
    "baselines + image + disagreement": (*BASELINES, "image", "disagreement"),
    "saliency": ("saliency",),
    "baselines + saliency": (*BASELINES, "saliency"),
    "baselines + image + saliency": (*BASELINES, "image", "saliency"),
    "baselines + image + reliance": (*BASELINES, "image", "reliance"),
    "context": ("context",),
    "baselines + image + context": (*BASELINES, "image", "context"),
    "baselines + image + faithfulness": (*BASELINES, "image", "context", "faithfulness"),
    "margins": ("margins",),
    "baselines + image + margins": (*BASELINES, "image", "margins"),
    "radiomics (published)": ("radiomics",),
    "baselines + radiomics": (*BASELINES, "radiomics"),
    "everything": (*BASELINES, "image", "disagreement", "saliency", "context", "faithfulness"),
}
"""Sets of features that are compared, cheapest first; those whose columns are not in the table are left out."""

REFERENCES = ("baselines", "baselines + image")
"""Sets that the others are set against."""

MUCH = 0.1
"""Share of a patient's true lesions whose loss counts as much (`patients_losing_more`)."""

METRICS = (
    "auc",
    "average_precision",
    "brier",
    "false_removed",
    "true_lost",
    "true_lost_per_patient",
    "patients_losing_more",
    "false_removed_at_loss",
    "ppv_before",
    "ppv_after",
    "recall_before",
    "recall_after",
    "f1_before",
    "f1_after",
    *(f"errors_left_{100 * retained:.0f}" for retained in RETAINED),
)


@dataclass(frozen=True, eq=False)
class Judged:
    """Lesions of patients not fitted on, as one model judges them.

    One row per lesion, then one per scan that carries its missed lesions (`missed`; its `weight` is 0), so that picking
    a patient's rows picks all of it. `called` are the verdicts at the model's operating point; `called_at_loss` those at
    the threshold that loses just the stated share on these very lesions, which compares sets of features at one recall.
    """

    p: Float[np.ndarray, " rows"]
    false: Int[np.ndarray, " rows"]
    called: Bool[np.ndarray, " rows"]
    called_at_loss: Bool[np.ndarray, " rows"]
    weight: Float[np.ndarray, " rows"]
    missed: Float[np.ndarray, " rows"]
    patients: np.ndarray

    @classmethod
    def by(cls, model: TriageModel, lesions: pd.DataFrame, counts: pd.DataFrame, *, max_loss: float) -> "Judged":
        """A model's verdicts on a feature table, with the missed lesions of every scan (`cohort.outcome_counts`)."""
        rows = lesions[lesions["outcome"].isin(("TP", "US", "FP"))]
        p = model.probability(model.table(rows))
        false = (rows["outcome"] == "FP").to_numpy().astype(np.int64)
        weight = rows["weight"].to_numpy(dtype=float)
        # What the model does not judge is never called false, however it scores.
        reached = np.where([model.knows(volume) for volume in rows["volume_mm3"]], p, -1.0)
        at_loss = operating_point(reached, false, weights=weight, max_loss=max_loss)
        scans, none = len(counts), np.zeros(len(counts))
        subjects = rows["subject"].to_numpy().astype(str)
        return cls(
            p=np.concatenate([p, none]),
            false=np.concatenate([false, none.astype(np.int64)]),
            called=np.concatenate([reached >= model.threshold, none > 0]),
            called_at_loss=np.concatenate([reached >= at_loss, none > 0]),
            weight=np.concatenate([weight, none]),
            missed=np.concatenate([np.zeros(len(rows)), counts["FN"].to_numpy(dtype=float)]),
            patients=np.concatenate([subjects, counts["subject"].to_numpy().astype(str)]) if scans else subjects,
        )

    @cached_property
    def share(self) -> Float[np.ndarray, " rows"]:
        """What a true lesion is of its patient's."""
        return patient_shares(self.weight, self.false, self.patients)

    @cached_property
    def loses(self) -> Float[np.ndarray, " rows"]:
        """The share of true lesions that the row's patient loses."""
        _, member = np.unique(self.patients, return_inverse=True)
        return np.bincount(member, weights=self.share * self.called)[member]

    def metrics(self, picked: Int[np.ndarray, " picked"]) -> Float[np.ndarray, " metrics"]:
        """All of `METRICS` on some rows; nan where undefined."""
        weight, false = self.weight[picked], self.false[picked]
        w_true, w_false = weight * (false == 0), weight * (false == 1)
        true, wrong, missed = float(w_true.sum()), float(w_false.sum()), float(self.missed[picked].sum())
        called, at_loss = self.called[picked], self.called_at_loss[picked]
        lost, removed = float(w_true[called].sum()), float(w_false[called].sum())
        p, share, loses = self.p[picked], self.share[picked], self.loses[picked]
        return np.array(
            [
                weighted_auc(p, w_true, w_false),
                average_precision(p, w_true, w_false),
                _ratio(float((weight * (p - false) ** 2).sum()), true + wrong),
                _ratio(removed, wrong),
                _ratio(lost, true),
                _ratio(float((share * called).sum()), float(share.sum())),
                _ratio(float(share[loses > MUCH].sum()), float(share.sum())),
                _ratio(float(w_false[at_loss].sum()), wrong),
                _ratio(true, true + wrong),
                _ratio(true - lost, true - lost + wrong - removed),
                _ratio(true, true + missed),
                _ratio(true - lost, true + missed),
                _ratio(2 * true, 2 * true + wrong + missed),
                _ratio(2 * (true - lost), 2 * (true - lost) + wrong - removed + missed + lost),
                *(errors_left(p, w_true, w_false, retained) for retained in RETAINED),
            ]
        )


@dataclass(frozen=True)
class Evidence:
    """Metrics of every set of features on held-out patients, and differences to the reference sets."""

    metrics: Mapping[str, Mapping[str, Interval]]
    differences: Mapping[str, Mapping[str, Interval]]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON: nan becomes null."""
        return {
            "facts": dict(self.facts),
            "metrics": {name: {m: _interval(i) for m, i in of.items()} for name, of in self.metrics.items()},
            "differences": {name: {m: _interval(i) for m, i in of.items()} for name, of in self.differences.items()},
        }

    def markdown(self) -> str:
        """The table as it stands in docs/triage.md."""
        head = (
            "features",
            "AUC",
            "average precision",
            "FP removed",
            "TP lost",
            "of a patient's TP",
            f"patients losing over {MUCH:.0%}",
            "FP removed at fixed loss",
            "PPV",
            "F1",
            *(f"FP left, {100 * (1 - retained):.0f} % looked at" for retained in RETAINED),
        )
        lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
        for name, of in self.metrics.items():
            cells = [name, *(str(of[m]) for m in ("auc", "average_precision"))]
            shares = (
                "false_removed",
                "true_lost",
                "true_lost_per_patient",
                "patients_losing_more",
                "false_removed_at_loss",
            )
            cells += [_percent(of[m]) for m in shares]
            cells += [f"{of[f'{m}_before'].estimate:.3f} → {_three(of[f'{m}_after'])}" for m in ("ppv", "f1")]
            cells += [_percent(of[f"errors_left_{100 * retained:.0f}"]) for retained in RETAINED]
            lines.append("| " + " | ".join(cells) + " |")
        lines += ["", "| paired difference of AUC | to baselines | to baselines + image |", "|---|---|---|"]
        for name, of in self.differences.items():
            cells = [_signed(of[f"auc against {r}"]) if f"auc against {r}" in of else "" for r in REFERENCES]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
        return "\n".join(lines) + "\n"


def fit_sets(
    lesions: pd.DataFrame,
    *,
    channels: Sequence[str],
    kind: str = "l1_logistic",
    promise: Promise | None = None,
    seed: int = 0,
) -> dict[str, TriageModel]:
    """A model per set of features whose columns the table has."""
    return {
        name: fit_model(lesions, channels=channels, families=chosen, kind=kind, promise=promise, seed=seed)[0]
        for name, chosen in measured_sets(lesions).items()
    }


def measured_sets(lesions: pd.DataFrame) -> dict[str, tuple[str, ...]]:
    """The sets of features whose columns a table has."""
    there = {
        "saliency": _mapped(lesions),
        "reliance": _mapped(lesions),
        "context": "drop_removed" in lesions,
        "faithfulness": "drop_salient" in lesions,
        "disagreement": "mirrored_drop" in lesions,
        "structural": "structural_uncertainty" in lesions and bool(lesions["structural_uncertainty"].notna().any()),
        "margins": "margin_all" in lesions,
        "radiomics": any(_radiomic(name) for name in lesions.columns),
    }
    return {name: chosen for name, chosen in SETS.items() if all(there.get(family, True) for family in chosen)}


def evaluate(
    models: Mapping[str, TriageModel],
    lesions: pd.DataFrame,
    counts: pd.DataFrame,
    *,
    max_loss: float = 0.05,
    n_resamples: int = 1000,
    seed: int = 0,
) -> Evidence:
    """Every model on the same lesions of patients it was not fitted on; intervals over patients (Student, METHOD section 5)."""
    judged = {name: Judged.by(model, lesions, counts, max_loss=max_loss) for name, model in models.items()}
    first = next(iter(judged.values()))
    patients, member = np.unique(first.patients, return_inverse=True)
    rows = [np.flatnonzero(member == number) for number in range(len(patients))]
    rng = np.random.default_rng(seed)
    picks = rng.integers(0, len(patients), size=(n_resamples, len(patients)))
    drawn = [np.concatenate([rows[p] for p in pick]) for pick in picks]
    whole = {name: one.metrics(np.arange(len(one.p))) for name, one in judged.items()}
    draws = {name: np.stack([one.metrics(picked) for picked in drawn]) for name, one in judged.items()}
    metrics = {
        name: {m: _of_metric(m, whole[name][i], draws[name][:, i], len(patients)) for i, m in enumerate(METRICS)}
        for name in models
    }
    differences: dict[str, dict[str, Interval]] = {}
    for name in models:
        for reference in REFERENCES:
            if reference not in models or reference == name:
                continue
            for m in ("auc", "average_precision", "false_removed_at_loss"):
                i = METRICS.index(m)
                estimate, change = whole[name][i] - whole[reference][i], draws[name][:, i] - draws[reference][:, i]
                key = f"{m} against {reference}"
                differences.setdefault(name, {})[key] = interval_from_draws(
                    float(estimate), change, n_patients=len(patients)
                )
    outcome = lesions["outcome"]
    facts = {
        "patients": len(patients),
        "true_lesions": int(outcome.isin(("TP", "US")).sum()),
        "false_lesions": int((outcome == "FP").sum()),
        "of_true": int(counts["TP"].sum()),
        "of_false": int(counts["FP"].sum()),
        "missed": int(counts["FN"].sum()),
        "max_loss": max_loss,
        "resamples": n_resamples,
    }
    return Evidence(metrics, differences, facts)


def average_precision(
    score: Float[np.ndarray, " rows"], w_true: Float[np.ndarray, " rows"], w_false: Float[np.ndarray, " rows"]
) -> float:
    """Area under precision against recall of finding false lesions, without interpolation; chance is their share."""
    from sklearn.metrics import average_precision_score

    weight, false = w_true + w_false, w_false > 0
    there = weight > 0
    if not false[there].any():
        return float("nan")
    return float(average_precision_score(false[there], score[there], sample_weight=weight[there]))


def permutation_importance(
    model: TriageModel, lesions: pd.DataFrame, *, repeats: int = 10, seed: int = 0
) -> dict[str, float]:
    """Loss of AUC when all features of a concept are shuffled among held-out lesions, by concept, largest first.

    Together, because they say much the same: scikit-learn's permutation importance shuffles one column at a time and would
    find none of them to matter.
    """
    rows = lesions[lesions["outcome"].isin(("TP", "US", "FP"))]
    table, weight = model.table(rows), rows["weight"].to_numpy(dtype=float)
    false = (rows["outcome"] == "FP").to_numpy()
    w_true, w_false = weight * ~false, weight * false
    full = weighted_auc(model.probability(table), w_true, w_false)
    rng = np.random.default_rng(seed)
    found = {}
    for concept in dict.fromkeys(feature.concept for feature in model.features):
        members = [n for n, feature in enumerate(model.features) if feature.concept == concept]
        losses = []
        for _ in range(repeats):
            shuffled = table.copy()
            shuffled[:, members] = table[rng.permutation(len(table))][:, members]
            losses.append(full - weighted_auc(model.probability(shuffled), w_true, w_false))
        found[concept] = float(np.mean(losses))
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _of_metric(metric: str, estimate: float, draws: np.ndarray, patients: int) -> Interval:
    scale: Scale = "logit" if metric in ("auc", "average_precision") else "plain"
    return interval_from_draws(float(estimate), draws, n_patients=patients, scale=scale, bounds=(0.0, 1.0))


def _interval(interval: Interval) -> dict[str, Any]:
    content = asdict(interval)
    return {key: None if isinstance(v, float) and not np.isfinite(v) else v for key, v in content.items()}


def _percent(i: Interval) -> str:
    bounds = "" if np.isnan(i.low) else f" [{100 * i.low:.0f}, {100 * i.high:.0f}]"
    return f"{100 * i.estimate:.0f} %{bounds}"


def _three(i: Interval) -> str:
    return f"{i.estimate:.3f}" + ("" if np.isnan(i.low) else f" [{i.low:.3f}, {i.high:.3f}]")


def _signed(i: Interval) -> str:
    return f"{i.estimate:+.3f}" + ("" if np.isnan(i.low) else f" [{i.low:+.3f}, {i.high:+.3f}]")


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else float("nan")


def _mapped(lesions: pd.DataFrame) -> bool:
    return any(name.startswith("peak_") for name in lesions.columns)


def _radiomic(name: str) -> bool:
    return name.startswith("radiomics_")
