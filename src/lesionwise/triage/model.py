"""A fitted triage model: what it looks at, how it judges, where it draws the line; saved as JSON alone."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from lesionwise.errors import InputError, ModelFileError
from lesionwise.io.files import write_text
from lesionwise.stats.risk import Promise
from lesionwise.triage.candidates import CandidateModel
from lesionwise.triage.families import BASELINES, catalogue, of_families
from lesionwise.triage.features import Feature
from lesionwise.triage.fitting import Cohort, Fitted, fit
from lesionwise.triage.likeness import Likeness
from lesionwise.triage.scorer import AbstractScorer, BoostedScorer, Calibration, LinearScorer
from lesionwise.triage.trees import Trees

FORMAT = "lesionwise-triage"
VERSION = 1
SHIPPED = Path(str(files("lesionwise.triage"))) / "models"
FULL = (*BASELINES, "image", "saliency")
"""Families that a model looks at unless told otherwise: all that need neither the network nor an optional package."""
MAPPED = ("saliency", "radiomics", "faithfulness")
"""Families that are measured on a lesion's map."""


@dataclass(frozen=True, eq=False)
class TriageModel:
    """Judges predicted lesions by their features.

    `true_typical` and `false_typical` are the medians of the true and false lesions it was fitted on, beside which
    reasons are given. `threshold` is on the calibrated probability of being false. `facts` say what it was fitted on:
    segmenter, method, target, samples, cohort, rule, validation, importance. `likeness` knows the fitted patients, None
    where there were too few. `fingerprint` is the hash of the files it was read from, empty before it was saved.
    """

    features: tuple[Feature, ...]
    scorer: AbstractScorer
    calibration: Calibration
    threshold: float
    true_typical: Float[np.ndarray, " features"]
    false_typical: Float[np.ndarray, " features"]
    facts: Mapping[str, Any] = field(default_factory=dict)
    candidates: CandidateModel | None = None
    likeness: Likeness | None = None
    fingerprint: str = ""

    def check_channels(self, channels: Sequence[str]) -> None:
        """Raises InputError if scans with these channels are not what it was fitted on."""
        fitted_on = list(self.facts.get("channels", channels))
        if fitted_on != list(channels):
            raise InputError(
                f"The triage model was fitted on the channels {', '.join(fitted_on)}, but the scan has "
                f"{', '.join(channels)}: fit one on scans like these."
            )

    @property
    def names(self) -> list[str]:
        """Features in the scorer's order."""
        return [feature.name for feature in self.features]

    @property
    def families(self) -> set[str]:
        """Families that the features come from."""
        return {feature.family for feature in self.features}

    @property
    def needs_maps(self) -> bool:
        """Whether only explained lesions can be judged."""
        return bool(self.families & {*MAPPED})

    def knows(self, volume_mm3: float) -> bool:
        """Whether false lesions of that volume were among those it was fitted on (known since `volume_mm3` is kept)."""
        low, high = self.facts.get("volume_mm3", (0.0, np.inf))
        return bool(low <= volume_mm3 <= high)

    def table(self, lesions: pd.DataFrame) -> Float[np.ndarray, "lesions features"]:
        """The features of measured lesions; columns that are not there are nan."""
        return lesions.reindex(columns=self.names).to_numpy(dtype=float)

    def log_odds(self, table: Float[np.ndarray, "lesions features"]) -> Float[np.ndarray, " lesions"]:
        """Calibrated log-odds of being false."""
        return self.calibration.slope * self.scorer.log_odds(table) + self.calibration.intercept

    def probability(self, table: Float[np.ndarray, "lesions features"]) -> Float[np.ndarray, " lesions"]:
        """Calibrated probability of being false, 0 to 1."""
        return self.calibration.probability(self.scorer.log_odds(table))


def fit_model(
    lesions: pd.DataFrame,
    *,
    channels: Sequence[str],
    families: Sequence[str] = FULL,
    kind: str = "l1_logistic",
    promise: Promise | None = None,
    seed: int = 0,
    facts: Mapping[str, Any] | None = None,
    candidates: CandidateModel | None = None,
) -> tuple[TriageModel, Fitted]:
    """A model from a cohort's feature table, and what cross-validation said while choosing it.

    Features that no lesion has (such as dropout's, for a network without) are left out, and linear models keep only
    those whose coefficient is not 0. `promise` as for `fit`. Raises InputError for a cohort that is too small (for the
    promise too) or one-sided.
    """
    radiomics = [name for name in lesions.columns if name.startswith("radiomics_")]
    known = catalogue(channels, radiomics=radiomics)
    names = [name for name in of_families(known, families) if name in lesions and lesions[name].notna().any()]
    cohort = Cohort.of(lesions, names)
    fitted = fit(cohort, kind=kind, promise=promise, seed=seed)
    scorer: AbstractScorer = fitted.scorer
    kept = np.arange(len(names))
    if isinstance(fitted.scorer, LinearScorer):
        scorer, kept = fitted.scorer.pruned()
    medians = [_medians(cohort.table[cohort.false == kind_of][:, kept]) for kind_of in (0, 1)]
    content = {
        "channels": list(channels),
        "kind": kind,
        "families": list(families),
        "strength": fitted.strength,
        "rule": fitted.promise.sentence(),
        "promise": asdict(fitted.promise),
        "max_loss": fitted.promise.mean_loss,
        "patients": len(np.unique(cohort.patients)),
        "true_lesions": int((cohort.false == 0).sum()),
        "false_lesions": int((cohort.false == 1).sum()),
        **(facts or {}),
    }
    if cohort.volumes is not None:
        content["volume_mm3"] = list(fitted.judged_mm3)
    model = TriageModel(
        features=tuple(known[names[i]] for i in kept),
        scorer=scorer,
        calibration=fitted.calibration,
        threshold=fitted.threshold,
        true_typical=medians[0],
        false_typical=medians[1],
        facts=content,
        candidates=candidates,
        likeness=Likeness.learn(cohort.table[:, kept], cohort.patients),
    )
    return model, fitted


def save_model(model: TriageModel, path: Path) -> list[Path]:
    """Writes the model as JSON, boosted trees included. Returns the files."""
    path = Path(path)
    if path.suffix != ".json":
        raise InputError(f"Expected a triage model to be saved as a .json file, found {path.name}.")
    content: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "threshold": model.threshold,
        "calibration": asdict(model.calibration),
        "features": [
            {**_named(feature), "true_typical": _plain(true), "false_typical": _plain(false)}
            for feature, true, false in zip(model.features, model.true_typical, model.false_typical, strict=True)
        ],
        "facts": dict(model.facts),
        "candidates": None if model.candidates is None else model.candidates.as_dict(),
        "likeness": None if model.likeness is None else model.likeness.as_dict(),
    }
    if isinstance(model.scorer, LinearScorer):
        content["scorer"] = model.scorer.as_dict(model.names)
    elif isinstance(model.scorer, BoostedScorer):
        content["scorer"] = {"kind": "boosting", **model.scorer.trees.as_dict()}
    else:
        raise InputError(f"Expected a scorer of a known kind, found {type(model.scorer).__name__}.")
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")
    return [path]


def load_triage(ref: str | Path) -> TriageModel:
    """A shipped model by name ("builtin"), or one saved as JSON.

    Nothing in the file is executed: it holds numbers and words. Raises ModelFileError that says what was found.
    """
    path = Path(ref)
    if not path.exists() and (SHIPPED / f"{ref}.json").is_file():
        path = SHIPPED / f"{ref}.json"
    if not path.is_file():
        shipped = ", ".join(sorted(p.stem for p in SHIPPED.glob("*.json"))) or "none"
        raise ModelFileError(f"Expected a shipped triage model ({shipped}) or a JSON file, but there is no file {ref}.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.get("format") != FORMAT or content.get("version") != VERSION:
            raise ModelFileError(
                f"Expected a {FORMAT} file of version {VERSION}, found format {content.get('format')!r}, "
                f"version {content.get('version')!r} in {path}."
            )
        return replace(_read(content, path), fingerprint=hashlib.sha256(path.read_bytes()).hexdigest()[:16])
    except (ValueError, AttributeError, KeyError, TypeError, IndexError, OverflowError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise ModelFileError(
            f"Expected a triage model in {path}, but what is in it is damaged or incomplete."
        ) from error


def _read(content: Mapping[str, Any], path: Path) -> TriageModel:
    rows, threshold = content["features"], float(content["threshold"])
    if not rows:
        raise ModelFileError(f"Expected the features of a triage model in {path}, found none.")
    if not 0 <= threshold < 1 + 1e-9:  # just above 1 means that no lesion is called false
        raise ModelFileError(f"Expected a threshold between 0 and 1 in {path}, found {threshold:g}.")
    names = [row["name"] for row in rows]
    known = catalogue(content["facts"].get("channels", ()))
    features = tuple(_feature(row, known) for row in rows)
    scorer: AbstractScorer
    if content["scorer"]["kind"] == "boosting":
        if "trees" not in content["scorer"]:
            raise ModelFileError(
                f"Expected the boosted trees in {path}, found that they lie in a file of their own, as earlier versions kept "
                "them: such files are not read, because they may hold more than trees. Fit the model again."
            )
        scorer = BoostedScorer(Trees.from_dict(content["scorer"], features=len(names)))
    else:
        scorer = LinearScorer.from_dict(content["scorer"], names)
    candidates, likeness = content.get("candidates"), content.get("likeness")
    calibration = Calibration(**{name: float(value) for name, value in content["calibration"].items()})
    if not np.isfinite([*_numbers_of(scorer), calibration.slope, calibration.intercept]).all():
        raise ModelFileError(f"Expected finite numbers in {path}, found one that is not.")
    return TriageModel(
        features=features,
        scorer=scorer,
        calibration=calibration,
        threshold=threshold,
        true_typical=np.array([_number(row["true_typical"]) for row in rows], dtype=float),
        false_typical=np.array([_number(row["false_typical"]) for row in rows], dtype=float),
        facts=dict(content["facts"]),
        candidates=None if candidates is None else CandidateModel.from_dict(candidates),
        likeness=None if likeness is None else Likeness.from_dict(likeness),
    )


def _numbers_of(scorer: AbstractScorer) -> list[float]:
    """What must be finite in a scorer."""
    if isinstance(scorer, LinearScorer):
        columns = (*vars(scorer.preparation).values(), scorer.coefficients, np.array([scorer.intercept]))
        return [float(value) for column in columns for value in column]
    trees = scorer.trees if isinstance(scorer, BoostedScorer) else None
    return [] if trees is None else [trees.start, *map(float, trees.value)]


def _named(feature: Feature) -> dict[str, Any]:
    """A feature as the file keeps it: how it is told is the code's, and may be told better later."""
    return {name: value for name, value in asdict(feature).items() if name != "told"}


def _feature(row: Mapping[str, Any], known: Mapping[str, Feature]) -> Feature:
    kept = {name: row[name] for name in ("name", "family", "concept", "words", "units")}
    return Feature(**kept, told=known[row["name"]].told if row["name"] in known else None)


def _medians(table: Float[np.ndarray, "lesions features"]) -> Float[np.ndarray, " features"]:
    out = np.full(table.shape[1], np.nan)
    known = np.isfinite(table).any(axis=0)
    out[known] = np.nanmedian(table[:, known], axis=0)
    return out


def _plain(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)
