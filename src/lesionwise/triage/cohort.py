"""A cohort's feature table: explaining a bounded, seeded draw of each scan's lesions, and measuring them."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from lesionwise.cohort import CohortRunner, ScanUnit, UnitResult
from lesionwise.cohort.left_out import LeftOutList
from lesionwise.cohort.tables import TableUnit, below_each_other, read_frame
from lesionwise.errors import InputError
from lesionwise.geometry.volume import ScanName
from lesionwise.io.bids import BidsScan, Filters, LeftOut, find_scans
from lesionwise.io.cases import read_scan_case
from lesionwise.io.derivative import ScanFiles, ScanOutput, read_scan
from lesionwise.io.masks import ReferenceRule
from lesionwise.io.written import require_usable, usable_scans
from lesionwise.models.reference import ModelRef, opened
from lesionwise.segmenter import AbstractSegmenter
from lesionwise.triage.baselines import baseline_features
from lesionwise.triage.context import context_features
from lesionwise.triage.disagreement import disagreement_features
from lesionwise.triage.families import costs
from lesionwise.triage.margins import margin_features
from lesionwise.triage.probing import Questions
from lesionwise.triage.radiomics import radiomic_features
from lesionwise.triage.scan import TriageScan
from lesionwise.triage.signed import saliency_features
from lesionwise.units import Settings, explain_case
from lesionwise.units.keys import sidecar
from lesionwise.units.record import is_recorded, written

VERSION = 4
"""Counts up when a feature changes its meaning, so that stored tables are measured again."""

FOLDER = "triage/features"
WHY_MISSING = (
    "Features of margins are what `lesionwise why` found: expected its table in {where}, found none; run it first."
)

IDENTITY = ("subject", "scan", "lesion", "outcome", "volume_mm3", "weight")


@dataclass(frozen=True)
class Extras:
    """Features that cost time or an optional package."""

    context: bool = False
    radiomics: bool = False
    disagreement: bool = False
    margins: bool = False

    @classmethod
    def needed(cls, families: Iterable[str]) -> "Extras":
        """What must be measured for these families of features."""
        of = costs(families)
        return cls("context" in of, "radiomics" in of, "disagreement" in of, "why" in of)

    @property
    def asks(self) -> bool:
        """Whether the network must be asked again."""
        return self.context or self.disagreement

    def kinds(self, *, every: bool = False) -> tuple[str, ...]:
        """The tables of features that are measured: "plain" or, for all predicted lesions, "every"; then the extras."""
        asked = {
            "context": self.context,
            "radiomics": self.radiomics,
            "disagreement": self.disagreement,
            "margins": self.margins,
        }
        return ("every" if every else "plain", *(kind for kind, wanted in asked.items() if wanted))


PLAIN = Extras()
"""Nothing beyond what maps, probability and images tell."""


def draw_lesions(lesions: pd.DataFrame, *, limit: int, seed: int) -> list[int]:
    """At most `limit` predicted lesions of a scan, drawn by outcome: half false, half true, seeded.

    Where one outcome has fewer than half, the other fills up. Without outcomes all are drawn alike.
    """
    rng = np.random.default_rng(seed)
    false = rng.permutation(lesions.loc[lesions["outcome"] == "FP", "lesion"].to_numpy(dtype=int, copy=True))
    rest = lesions["outcome"].isin(("TP", "US")) | lesions["outcome"].isna()
    true = rng.permutation(lesions.loc[rest, "lesion"].to_numpy(dtype=int, copy=True))
    n_false = min(len(false), max(limit // 2, limit - len(true)))
    n_true = min(len(true), limit - n_false)
    return sorted([*false[:n_false].tolist(), *true[:n_true].tolist()])


def explain_cohort(
    model: AbstractSegmenter | ModelRef,
    bids_dir: Path,
    out: Path,
    settings: Settings,
    *,
    limit: int = 15,
    participants: Sequence[str] | None = None,
    filters: Filters | None = None,
    reference_from: Path | None = None,
    reference_rule: ReferenceRule | None = None,
    version: str = "",
    runner: CohortRunner | None = None,
) -> list[str]:
    """Explains a draw of at most `limit` predicted lesions of every scan with a reference; returns the scans' names.

    Uses the same units of work as `explain` and `study`: what is there already is kept. `runner` says on what processes,
    and collects the scans left out; they are listed in `OUT/triage/left_out.tsv`. `filters`, `reference_from` and
    `reference_rule` choose images and masks as in `find_scans`. Raises InputError if no scan of the data
    set has a reference.
    """
    out, runner = Path(out), runner or CohortRunner()
    found = find_scans(
        bids_dir,
        channels=opened(model).spec.channels,
        participants=participants,
        filters=filters,
        reference_from=reference_from,
        reference_rule=reference_rule,
    )
    known = [scan for scan in found.scans if scan.reference is not None]
    if not known:
        raise InputError(
            f"Expected scans with a reference mask in {bids_dir}, found none: true and false are not known."
        )
    units = [
        ScanUnit(
            work="triage explain",
            name=scan.name,
            out=out,
            run_fn=partial(explain_draw, model, scan, out, settings, limit=limit, version=version),
            inputs=scan.files,
            depends_on=(model.fingerprint, settings.key, limit, scan.reference_rule),
            sound_fn=partial(
                is_recorded, ScanFiles(out, scan.name), model=model.fingerprint, method=settings.method.name
            ),
        )
        for scan in runner.shard.of(known)
    ]
    missing = [*found.left_out]
    missing += [LeftOut(scan.name, "no reference mask") for scan in found.scans if scan.reference is None]
    listed = LeftOutList(out, "triage explain", out / "triage" / "left_out.tsv")
    result = runner.run(units, stage="scans", listed=listed, missing=missing)
    return [unit.name.stem for unit, one in zip(units, result.outcomes, strict=True) if one.status != "left_out"]


def measure_cohort(
    out: Path,
    *,
    extras: Extras = PLAIN,
    model: AbstractSegmenter | ModelRef | None = None,
    method: str | None = None,
    every: bool = False,
    device: str = "cpu",
    runner: CohortRunner | None = None,
) -> pd.DataFrame:
    """Features of every explained predicted lesion of every finished scan of an output folder.

    One row per lesion with subject, scan, lesion, outcome, volume_mm3, weight and every feature. `every` measures all
    predicted lesions, explained or not, by what needs no map. Tables are kept below `OUT/triage/features`, one per kind
    of features, and measured again only if the scan, the features or the network asked changed. Scans that cannot be used
    are left out (`runner.left_out`). Raises InputError if no scan can be used, or the network must be asked and is not
    given.
    """
    out, runner = Path(out), runner or CohortRunner()
    usable, damaged = require_usable(out)
    if extras.asks and model is None:
        raise InputError("Features of context and disagreement ask the network again: expected a model, found none.")
    tables = []
    kinds = extras.kinds(every=every)
    for scan in runner.shard.of(usable):
        for kind in kinds:
            asked = model if kind in ("context", "disagreement") else None
            table = TableUnit.of(
                partial(measure_kind, out, scan.name, kind, method=method, every=every, model=asked, device=device),
                out / FOLDER / f"{scan.name.stem}_{kind}.parquet",
                work="triage features",
                name=scan.name,
                out=out,
                inputs=feature_inputs(scan),
                depends_on=(VERSION, kind, method, every, "" if asked is None else asked.fingerprint),
                part=kind,
            )
            tables.append(table)
    result = runner.run([table.unit for table in tables], stage="features", missing=damaged)
    unusable = {table.unit.name for table, one in zip(tables, result.outcomes, strict=True) if one.status == "left_out"}
    good = [table for table in tables if table.unit.name not in unusable]
    if tables and not good:
        first = next((reason for _, reason in result.left_out), "no reason was given")
        raise InputError(f"Expected scans in {out} whose lesions can be measured, found none: {first}")
    parts = [
        _joined([read_frame(table.path) for table in good[n : n + len(kinds)]]) for n in range(0, len(good), len(kinds))
    ]
    return below_each_other(parts)


def measure_kind(
    out: Path,
    name: ScanName,
    kind: str,
    *,
    method: str | None,
    every: bool,
    model: AbstractSegmenter | ModelRef | None,
    device: str,
) -> pd.DataFrame:
    """One kind of features of one scan's lesions: what a unit of work computes."""
    scan = TriageScan.of(read_scan(out, name), method=method)
    rows = _rows(scan, [int(label) for label in scan.judged()["lesion"]] if every else None)
    if kind == "margins" and scan.why is None:
        raise InputError(WHY_MISSING.format(where=out))
    questions = None if model is None or rows.empty else Questions.of(scan, opened(model, device))
    return _measured(scan, rows, kind, questions)


def feature_inputs(scan: ScanOutput) -> dict[str, Path]:
    """The files that a scan's features are measured from: its tables, maps and sidecars, and the images explained."""
    files = scan.files
    maps = {path.name: path for path in files.saliency_files().values()}
    sidecars = {path.name: path for path in map(sidecar, maps.values()) if path.is_file()}
    own = {path.name: path for path in (files.lesions, files.facts, files.probability, files.mask, files.labels)}
    own |= {path.name: path for path in (files.why_table,) if path.is_file()}
    images = {f"source {what}": path for what, path in scan.sources.items() if path.is_file()}
    return {**own, **maps, **sidecars, **images}


def measure_scan(
    scan: TriageScan,
    *,
    extras: Extras = PLAIN,
    model: AbstractSegmenter | None = None,
    labels: Sequence[int] | None = None,
) -> pd.DataFrame:
    """Features of some lesions of a scan (default: the explained predicted ones), one row each."""
    rows = _rows(scan, labels)
    questions = None if model is None or not extras.asks or rows.empty else Questions.of(scan, model)
    return _joined([_measured(scan, rows, kind, questions) for kind in extras.kinds() if kind == "plain" or len(rows)])


def _rows(scan: TriageScan, labels: Sequence[int] | None) -> pd.DataFrame:
    """The lesions' rows of the lesion table, with what each stands for."""
    judged = scan.judged()
    rows = judged[judged["lesion"].isin(list(scan.maps) if labels is None else labels)]
    return rows.assign(weight=[_weight(judged, rows, outcome) for outcome in rows["outcome"]])


def _measured(scan: TriageScan, rows: pd.DataFrame, kind: str, questions: Questions | None) -> pd.DataFrame:
    """One kind of features of some lesions; "plain" also says which lesions they are."""
    asked = [int(label) for label in rows["lesion"]]
    found: list[dict[str, object]] = []
    if kind in ("context", "disagreement"):
        table = (
            context_features(questions, asked, channels=scan.channels)
            if kind == "context"
            else disagreement_features(questions, asked)
        )
        found = [{"lesion": label, **measured} for label, measured in table.items()]
    elif kind == "margins":
        table = margin_features(scan.why, asked, channels=scan.channels)
        found = [{"lesion": label, **measured} for label, measured in table.items()]
    elif kind == "radiomics":
        found = [{"lesion": n, **radiomic_features(scan.view(n), channels=scan.channels)} for n in asked]
    else:
        for record in rows.to_dict(orient="records"):
            view = scan.view(int(record["lesion"]))
            row: dict[str, object] = {"subject": scan.name.subject, "scan": scan.name.stem}
            row |= {name: record[name] for name in IDENTITY[2:]}
            row |= baseline_features(scan, view)
            if kind == "plain":
                row |= saliency_features(view, record, channels=scan.channels)
            found.append(row)
    return pd.DataFrame(found, columns=None if found else list(IDENTITY if kind in ("plain", "every") else ("lesion",)))


def _joined(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """All kinds of features side by side, by lesion."""
    joined = tables[0]
    for table in tables[1:]:
        joined = joined.merge(table, on="lesion", how="left", validate="one_to_one")
    return joined


def outcome_counts(out: Path) -> pd.DataFrame:
    """Lesions per scan by outcome (columns subject, scan, TP, FP, FN), whether explained or not; US counts as TP."""
    rows = []
    for scan in usable_scans(out)[0]:
        outcome = scan.lesions["outcome"]
        true, false, missed = (int(outcome.isin(kinds).sum()) for kinds in (("TP", "US"), ("FP",), ("FN",)))
        rows.append({"subject": scan.name.subject, "scan": scan.name.stem, "TP": true, "FP": false, "FN": missed})
    return pd.DataFrame(rows, columns=["subject", "scan", "TP", "FP", "FN"])


def explain_draw(
    model: AbstractSegmenter | ModelRef, scan: BidsScan, out: Path, settings: Settings, *, limit: int, version: str
) -> UnitResult:
    """Explains a seeded draw of one scan's predicted lesions: what a unit of work does."""
    segmenter = opened(model, settings.device)
    case = read_scan_case(scan, resample=True)
    # The first call predicts and finds the lesions, so that there is something to draw from; it explains none.
    found = explain_case(segmenter, case, replace(settings, lesions="largest:0"), out=out, version=version)
    salt = int.from_bytes(hashlib.sha256(scan.name.stem.encode()).digest()[:4], "little")
    drawn = draw_lesions(found.lesions, limit=limit, seed=settings.seed + salt)
    if drawn:
        wanted = replace(settings, lesions=",".join(map(str, drawn)))
        explain_case(segmenter, case, wanted, out=out, version=version)
    return UnitResult(written(ScanFiles(out, scan.name), settings.method.name), f"{len(drawn)} explained")


def _weight(judged: pd.DataFrame, rows: pd.DataFrame, outcome: object) -> float:
    """How many predicted lesions of its outcome one measured lesion stands for."""
    if outcome is None or outcome is pd.NA:
        return 1.0
    kinds = ("FP",) if outcome == "FP" else ("TP", "US")
    return float(judged["outcome"].isin(kinds).sum() / rows["outcome"].isin(kinds).sum())
