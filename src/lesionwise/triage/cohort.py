"""A cohort's feature table: explaining a bounded, seeded draw of each scan's lesions, and measuring them."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from lesionwise.errors import InputError
from lesionwise.io.bids import BidsScan, find_scans
from lesionwise.io.cases import read_case
from lesionwise.io.derivative import ScanOutput, list_scans, read_scan
from lesionwise.io.files import write_text
from lesionwise.segmenter import AbstractSegmenter
from lesionwise.triage.baselines import baseline_features
from lesionwise.triage.context import context_features
from lesionwise.triage.radiomics import radiomic_features
from lesionwise.triage.scan import TriageScan
from lesionwise.triage.signed import saliency_features
from lesionwise.units import ProgressFn, Settings, explain_case

VERSION = 1
"""Counts up when a feature changes its meaning, so that stored tables are measured again."""

FOLDER = "triage/features"
IDENTITY = ("subject", "scan", "lesion", "outcome", "volume_mm3", "weight")


@dataclass(frozen=True)
class Extras:
    """Features that cost time or an optional package."""

    context: bool = False
    radiomics: bool = False


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
    progress_fn: ProgressFn | None = None,
) -> pd.DataFrame:
    """Features of every explained predicted lesion of every finished scan of an output folder.

    One row per lesion with subject, scan, lesion, outcome, volume_mm3, weight and every feature. Tables are kept below
    `OUT/triage/features` and measured again only if the scan, the features or what is asked for changed. Raises
    InputError if the folder holds no finished scans, or context is asked for without a model.
    """
    names = list_scans(out)
    if not names:
        raise InputError(f"Expected finished scans in {out}, found none: run explain, study or triage explain first.")
    if extras.context and model is None:
        raise InputError("Features of context ask the network again: expected a model, found none.")
    parts = []
    for number, name in enumerate(names):
        scan = read_scan(out, name)
        path = Path(out) / FOLDER / f"{name.stem}.tsv"
        key = _key(scan, extras, method)
        table = _stored(path, key)
        if table is None:
            table = measure_scan(TriageScan.of(scan, method=method), extras=extras, model=model)
            _store(path, key, table)
        parts.append(table)
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
    judged = scan.judged()
    rows = (
        judged[judged["lesion"].isin(labels)] if labels is not None else judged[judged["lesion"].isin(list(scan.maps))]
    )
    asked = [int(label) for label in rows["lesion"]]
    context: Mapping[int, Mapping[str, float]] = {}
    if extras.context and model is not None and asked:
        context = context_features(scan, model, asked)
    found = []
    for record in rows.to_dict(orient="records"):
        label = int(record["lesion"])
        view = scan.view(label)
        row: dict[str, object] = {
            "subject": scan.name.subject,
            "scan": scan.name.stem,
            "lesion": label,
            "outcome": record["outcome"],
            "volume_mm3": record["volume_mm3"],
            "weight": _weight(judged, rows, record["outcome"]),
        }
        row |= baseline_features(scan, view)
        row |= saliency_features(view, record, channels=scan.channels)
        row |= context.get(label, {})
        if extras.radiomics:
            row |= radiomic_features(view, channels=scan.channels)
        found.append(row)
    return pd.DataFrame(found, columns=None if found else list(IDENTITY))


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
    case = read_case(scan.images, reference=scan.reference, name=scan.name, resample=True)
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


def _key(scan: ScanOutput, extras: Extras, method: str | None) -> str:
    digest = hashlib.sha256(repr((VERSION, extras, method)).encode())
    for path in (scan.files.lesions, scan.files.facts, *scan.files.saliency_files().values()):
        digest.update(path.name.encode())
        # Maps are told apart by their sidecars, which hold the key of their content.
        sidecar = path.with_name(path.name.replace(".nii.gz", ".json"))
        digest.update(sidecar.read_bytes() if sidecar.is_file() else b"")
    return digest.hexdigest()[:24]


def _stored(path: Path, key: str) -> pd.DataFrame | None:
    facts = path.with_suffix(".json")
    try:
        if json.loads(facts.read_text(encoding="utf-8")).get("Key") != key:
            return None
        return pd.read_csv(
            path, sep="\t", dtype={"subject": str, "scan": str}, na_values=["n/a"], keep_default_na=False
        )
    except (OSError, ValueError):
        return None


def _store(path: Path, key: str, table: pd.DataFrame) -> None:
    text = table.to_csv(sep="\t", index=False, na_rep="n/a", float_format="%.9g", lineterminator="\n")
    write_text(path, text)
    write_text(path.with_suffix(".json"), json.dumps({"Key": key, "Version": VERSION}) + "\n")
