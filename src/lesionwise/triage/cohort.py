"""A cohort's feature table: explaining a bounded, seeded draw of each scan's lesions, and measuring them."""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from lesionwise.errors import InputError
from lesionwise.io.bids import BidsScan, find_scans
from lesionwise.io.cases import read_scan_case
from lesionwise.io.derivative import ScanOutput, list_scans, read_scan
from lesionwise.io.files import write_text
from lesionwise.segmenter import AbstractSegmenter
from lesionwise.triage.baselines import baseline_features
from lesionwise.triage.context import context_features
from lesionwise.triage.disagreement import disagreement_features
from lesionwise.triage.probing import Questions
from lesionwise.triage.radiomics import radiomic_features
from lesionwise.triage.scan import TriageScan
from lesionwise.triage.signed import saliency_features
from lesionwise.units import ProgressFn, Settings, explain_case

VERSION = 4
"""Counts up when a feature changes its meaning, so that stored tables are measured again."""

FOLDER = "triage/features"
IDENTITY = ("subject", "scan", "lesion", "outcome", "volume_mm3", "weight")


@dataclass(frozen=True)
class Extras:
    """Features that cost time or an optional package."""

    context: bool = False
    radiomics: bool = False
    disagreement: bool = False

    @classmethod
    def needed(cls, families: Iterable[str]) -> "Extras":
        """What must be measured for these families of features."""
        of = set(families)
        return cls(bool(of & {"context", "faithfulness"}), "radiomics" in of, bool(of & {"disagreement", "structural"}))

    @property
    def asks(self) -> bool:
        """Whether the network must be asked again."""
        return self.context or self.disagreement

    def kinds(self, *, every: bool = False) -> tuple[str, ...]:
        """The tables of features that are measured: "plain" or, for all predicted lesions, "every"; then the extras."""
        asked = {"context": self.context, "radiomics": self.radiomics, "disagreement": self.disagreement}
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
    model: AbstractSegmenter,
    bids_dir: Path,
    out: Path,
    settings: Settings,
    *,
    limit: int = 15,
    participants: Sequence[str] | None = None,
    version: str = "",
    progress_fn: ProgressFn | None = None,
    announce_fn: Callable[[str], None] | None = None,
) -> list[str]:
    """Explains a draw of at most `limit` predicted lesions of every scan with a reference; returns the scans' names.

    Uses the same units of work as `explain` and `study`: what is there already is kept. Raises InputError if no scan of
    the data set has a reference.
    """
    scans = find_scans(bids_dir, channels=model.spec.channels, participants=participants).scans
    known = [scan for scan in scans if scan.reference is not None]
    if not known:
        raise InputError(
            f"Expected scans with a reference mask in {bids_dir}, found none: true and false are not known."
        )
    for number, scan in enumerate(known):
        _explain_draw(model, scan, Path(out), settings, limit=limit, version=version)
        if progress_fn is not None:
            progress_fn("scans", number + 1, len(known))
        if announce_fn is not None:
            announce_fn(f"{scan.name.stem} is explained ({number + 1} of {len(known)}).")
    return [scan.name.stem for scan in known]


def measure_cohort(
    out: Path,
    *,
    extras: Extras = PLAIN,
    model: AbstractSegmenter | None = None,
    method: str | None = None,
    every: bool = False,
    progress_fn: ProgressFn | None = None,
) -> pd.DataFrame:
    """Features of every explained predicted lesion of every finished scan of an output folder.

    One row per lesion with subject, scan, lesion, outcome, volume_mm3, weight and every feature. `every` measures all
    predicted lesions, explained or not, by what needs no map. Tables are kept below `OUT/triage/features`, one per kind
    of features, and measured again only if the scan, the features or the network asked changed. Raises InputError if
    the folder holds no finished scans, or the network must be asked and is not given.
    """
    names = list_scans(out)
    if not names:
        raise InputError(f"Expected finished scans in {out}, found none: run explain, study or triage explain first.")
    if extras.asks and model is None:
        raise InputError("Features of context and disagreement ask the network again: expected a model, found none.")
    asked = "" if model is None or not extras.asks else model.fingerprint
    parts = []
    for number, name in enumerate(names):
        scan = read_scan(out, name)
        keys = {kind: table_key(scan, kind, method, asked) for kind in extras.kinds(every=every)}
        paths = {kind: Path(out) / FOLDER / f"{name.stem}_{kind}.tsv" for kind in keys}
        known = {kind: stored_table(paths[kind], key) for kind, key in keys.items()}
        if any(table is None for table in known.values()):
            seen = TriageScan.of(scan, method=method)
            labels = [int(label) for label in seen.judged()["lesion"]] if every else None
            rows = _rows(seen, labels)
            questions = None if model is None or not extras.asks or rows.empty else Questions.of(seen, model)
            for kind, table in known.items():
                if table is None:
                    known[kind] = measured = _measured(seen, rows, kind, questions)
                    store_table(paths[kind], keys[kind], measured)
        parts.append(_joined([table for table in known.values() if table is not None]))
        if progress_fn is not None:
            progress_fn("features", number + 1, len(names))
    return pd.concat([part for part in parts if len(part)] or parts, ignore_index=True)


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
    for name in list_scans(out):
        outcome = read_scan(out, name).lesions["outcome"]
        true, false, missed = (int(outcome.isin(kinds).sum()) for kinds in (("TP", "US"), ("FP",), ("FN",)))
        rows.append({"subject": name.subject, "scan": name.stem, "TP": true, "FP": false, "FN": missed})
    return pd.DataFrame(rows)


def _explain_draw(
    model: AbstractSegmenter, scan: BidsScan, out: Path, settings: Settings, *, limit: int, version: str
) -> None:
    case = read_scan_case(scan, resample=True)
    # The first call predicts and finds the lesions, so that there is something to draw from; it explains none.
    found = explain_case(model, case, replace(settings, lesions="largest:0"), out=out, version=version)
    salt = int.from_bytes(hashlib.sha256(scan.name.stem.encode()).digest()[:4], "little")
    drawn = draw_lesions(found.lesions, limit=limit, seed=settings.seed + salt)
    if drawn:
        wanted = replace(settings, lesions=",".join(map(str, drawn)))
        explain_case(model, case, wanted, out=out, version=version)


def _weight(judged: pd.DataFrame, rows: pd.DataFrame, outcome: object) -> float:
    """How many predicted lesions of its outcome one measured lesion stands for."""
    if outcome is None or outcome is pd.NA:
        return 1.0
    kinds = ("FP",) if outcome == "FP" else ("TP", "US")
    return float(judged["outcome"].isin(kinds).sum() / rows["outcome"].isin(kinds).sum())


def table_key(scan: ScanOutput, kind: str, method: str | None = None, asked: str = "") -> str:
    """Hash of what a table of features depends on: the scan's outcome and maps, and the network that was asked."""
    network = asked if kind in ("context", "disagreement") else ""
    digest = hashlib.sha256(repr((VERSION, kind, method, network)).encode())
    for path in (scan.files.lesions, scan.files.facts, *scan.files.saliency_files().values()):
        digest.update(path.name.encode())
        # Maps are told apart by their sidecars, which hold the key of their content.
        sidecar = path.with_name(path.name.replace(".nii.gz", ".json"))
        digest.update(sidecar.read_bytes() if sidecar.is_file() else b"")
    return digest.hexdigest()[:24]


def stored_table(path: Path, key: str) -> pd.DataFrame | None:
    """A table that `store_table` wrote under the same key, else None."""
    facts = path.with_suffix(".json")
    try:
        if json.loads(facts.read_text(encoding="utf-8")).get("Key") != key:
            return None
        return pd.read_csv(
            path, sep="\t", dtype={"subject": str, "scan": str}, na_values=["n/a"], keep_default_na=False
        )
    except (OSError, ValueError):
        return None


def store_table(path: Path, key: str, table: pd.DataFrame) -> None:
    """Keeps a table with the key of what it was measured from."""
    text = table.to_csv(sep="\t", index=False, na_rep="n/a", float_format="%.9g", lineterminator="\n")
    write_text(path, text)
    write_text(path.with_suffix(".json"), json.dumps({"Key": key, "Version": VERSION}) + "\n")
