"""Fitting a triage model on an output folder, with what it was fitted on and how well it does written into it."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from lesionwise.cohort import CohortRunner
from lesionwise.cohort.tables import TableUnit, below_each_other, read_kept
from lesionwise.geometry.volume import ScanName
from lesionwise.io.derivative import read_scan
from lesionwise.io.written import require_usable
from lesionwise.models.reference import ModelRef
from lesionwise.segmenter import AbstractSegmenter
from lesionwise.stats.bootstrap import cluster_bootstrap
from lesionwise.stats.effects import weighted_auc
from lesionwise.stats.risk import Promise
from lesionwise.triage.candidates import LOWER, MIN_VOXELS, find_candidates, fit_candidates
from lesionwise.triage.cohort import FOLDER, PLAIN, VERSION, Extras, feature_inputs, measure_cohort
from lesionwise.triage.evidence import MUCH, permutation_importance
from lesionwise.triage.families import GROUPS, catalogue, of_families
from lesionwise.triage.fitting import Cohort, nested_probabilities, patient_shares
from lesionwise.triage.model import FULL, MAPPED, TriageModel, fit_model
from lesionwise.triage.scan import TriageScan
from lesionwise.triage.scorer import LinearScorer


def fit_output(
    out: Path,
    *,
    kind: str = "l1_logistic",
    promise: Promise | None = None,
    families: Sequence[str] | None = None,
    extras: Extras = PLAIN,
    segmenter: AbstractSegmenter | ModelRef | None = None,
    fingerprint: str | None = None,
    misses: bool = False,
    caution: str | None = None,
    seed: int = 0,
    device: str = "cpu",
    runner: CohortRunner | None = None,
) -> tuple[TriageModel, str]:
    """A model fitted on the explained scans of a folder, and a few lines that say how well it does.

    `families` None takes everything that was measured. Features that need neither maps nor the network are measured on
    every predicted lesion, explained or not. `misses` also learns to order likely misses, which takes a while on whole
    heads; they go by their highest probability otherwise. `caution` is a sentence that goes with every scan that the model
    judges. `fingerprint` names the network that the model is for, where another one explained the scans: the same with
    another window, or the folds of its kind. `promise` None takes the default or the nearest that so many patients can
    prove. Raises InputError for cohorts without references, with too few patients (for the promise too) or with lesions of
    one kind only.
    """
    chosen = tuple(families) if families is not None else (*FULL, *_measured(extras))
    every = not (extras.asks or extras.margins) and not {*chosen} & {*MAPPED, *GROUPS}
    runner = runner or CohortRunner()
    lesions = measure_cohort(out, extras=extras, model=segmenter, every=every, device=device, runner=runner)
    first = TriageScan.of(require_usable(out)[0][0])
    candidates = candidate_table(out, runner=runner) if misses else pd.DataFrame()
    facts = {key: value for key, value in first.facts.items() if value is not None}
    facts |= {} if fingerprint is None else {"fingerprint": fingerprint, "explained_by": facts.get("fingerprint")}
    facts |= {} if caution is None else {"caution": caution}
    model, _ = fit_model(
        lesions,
        channels=first.channels,
        families=chosen,
        kind=kind,
        promise=promise,
        seed=seed,
        facts=facts,
        candidates=None if candidates.empty else fit_candidates(candidates, channels=first.channels, seed=seed),
    )
    columns = [name for name in lesions.columns if name in _used(model, lesions, chosen)]
    cohort = Cohort.of(lesions, columns)
    validation = validate(cohort, kind=kind, promise=promise, seed=seed)
    importance = permutation_importance(model, lesions, seed=seed)
    known = {**model.facts, "validation": validation, "importance_on_fitted": importance, "seed": seed}
    return replace(model, facts=known), summary(model, validation)


def validate(cohort: Cohort, *, kind: str, promise: Promise | None, seed: int) -> dict[str, object]:
    """Nested cross-validation over patients: AUC with its interval, false lesions removed, true lesions lost."""
    p, called = nested_probabilities(cohort, kind=kind, promise=promise, seed=seed)
    w_true, w_false = cohort.weights * (cohort.false == 0), cohort.weights * (cohort.false == 1)
    auc = cluster_bootstrap(
        cohort.patients,
        lambda rows: weighted_auc(p[rows], w_true[rows], w_false[rows]),
        rng=np.random.default_rng(seed),
        n_resamples=1000,
        scale="logit",
    )
    share = patient_shares(cohort.weights, cohort.false, cohort.patients)
    _, member = np.unique(cohort.patients, return_inverse=True)
    loses, whole = (np.bincount(member, weights=w) for w in (share * called, share))
    return {
        "scheme": "5 x 4 nested cross-validation by patient",
        "auc": auc.estimate,
        "auc_low": None if np.isnan(auc.low) else auc.low,
        "auc_high": None if np.isnan(auc.high) else auc.high,
        "false_removed": float(w_false[called].sum() / w_false.sum()),
        "true_lost": float(w_true[called].sum() / w_true.sum()),
        "true_lost_per_patient": float(loses[whole > 0].mean()),
        "patients_losing_more": float((loses[whole > 0] > MUCH).mean()),
        "much": MUCH,
    }


def candidate_table(out: Path, *, measured: bool = True, runner: CohortRunner | None = None) -> pd.DataFrame:
    """Sub-threshold candidates of every finished scan that can be used; without `measured` only what orders them.

    Tables are kept below `OUT/triage/features`.
    """
    out, runner = Path(out), runner or CohortRunner()
    usable, damaged = require_usable(out)
    kind = "candidates" if measured else "places"
    tables = [
        TableUnit.of(
            partial(candidates_of, out, scan.name, measured=measured),
            out / FOLDER / f"{scan.name.stem}_{kind}.parquet",
            work="triage features",
            name=scan.name,
            out=out,
            inputs=feature_inputs(scan),
            depends_on=(VERSION, kind, LOWER, MIN_VOXELS),
            part=kind,
        )
        for scan in runner.shard.of(usable)
    ]
    result = runner.run([table.unit for table in tables], stage="candidates", missing=damaged)
    return below_each_other(read_kept(tables, result))


def candidates_of(out: Path, name: ScanName, *, measured: bool) -> pd.DataFrame:
    """One scan's candidates: what a unit of work computes."""
    return find_candidates(TriageScan.of(read_scan(out, name), images=measured), measured=measured)


def summary(model: TriageModel, validation: dict[str, object]) -> str:
    """A few lines for people."""
    facts = model.facts
    interval = "" if validation["auc_low"] is None else f" [{validation['auc_low']:.3f}, {validation['auc_high']:.3f}]"
    lines = [
        f"The promise: {facts['rule']}.",
        f"Fitted on {facts['true_lesions']} true and {facts['false_lesions']} false lesions of {facts['patients']} patients.",
        f"Unseen patients (nested cross-validation): AUC {validation['auc']:.3f}{interval}; "
        f"{100 * float(str(validation['false_removed'])):.0f} % of the false lesions removed, "
        f"{100 * float(str(validation['true_lost'])):.1f} % of the true ones lost, "
        f"{100 * float(str(validation['true_lost_per_patient'])):.1f} % of a patient's on average; "
        f"{100 * float(str(validation['patients_losing_more'])):.0f} % of the patients lose over {MUCH:.0%}.",
    ]
    if isinstance(model.scorer, LinearScorer):
        order = np.argsort(-np.abs(model.scorer.coefficients))[:8]
        listed = ", ".join(f"{model.names[n]} {model.scorer.coefficients[n]:+.2f}" for n in order)
        lines.append(f"{len(model.names)} features count; the strongest, per SD: {listed}.")
    misses = "" if model.candidates is None else f" ({model.candidates.facts['misses']} missed lesions to learn from)"
    kind = "a model" if model.candidates is not None else "the highest probability"
    lines.append(f"Likely misses are ranked by {kind}{misses}.")
    return "\n".join(lines)


def _measured(extras: Extras) -> tuple[str, ...]:
    asked = {
        "context": extras.context,
        "faithfulness": extras.context,
        "radiomics": extras.radiomics,
        "disagreement": extras.disagreement,
        "structural": extras.disagreement,
        "margins": extras.margins,
    }
    return tuple(family for family, wanted in asked.items() if wanted)


def _used(model: TriageModel, lesions: pd.DataFrame, families: Sequence[str]) -> set[str]:
    """All columns of the families, also those that the final model gave no coefficient: validation chooses anew."""
    radiomics = [name for name in lesions.columns if name.startswith("radiomics_")]
    known = catalogue(model.facts["channels"], radiomics=radiomics)
    return set(of_families(known, families))
