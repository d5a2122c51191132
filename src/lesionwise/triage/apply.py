"""Applying a triage model to a scan: verdicts with reasons, a cleaned mask, and where to look for misses."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lesionwise.cohort import UnitResult
from lesionwise.errors import InputError
from lesionwise.geometry.affine import to_mm
from lesionwise.geometry.volume import ScanName
from lesionwise.io.checks import PLACE
from lesionwise.io.derivative import ScanFiles, ScanOutput, read_scan, write_json, write_table
from lesionwise.io.nifti import write_image
from lesionwise.io.written import forget_written, note_written
from lesionwise.lesion_table import TRIAGE
from lesionwise.models.reference import ModelRef, opened
from lesionwise.segmenter import AbstractSegmenter
from lesionwise.store import TRIAGE_MODEL, write_columns
from lesionwise.triage.candidates import find_candidates
from lesionwise.triage.cohort import WHY_MISSING, Extras, measure_scan
from lesionwise.triage.model import TriageModel, load_triage
from lesionwise.triage.reasons import reasons, reliance, signs
from lesionwise.triage.scan import TriageScan
from lesionwise.units import Explained

COLUMNS = tuple(TRIAGE)
FALSE, KEEP = "probably false", "keep"
LOOK_COLUMNS = ("rank", "p_lesion", "probability_max", "volume_mm3", "x_mm", "y_mm", "z_mm", "signs", "outcome")

DESCRIBED: Mapping[str, Mapping[str, str]] = {
    "lesion": {"Description": "Instance number, as in the dseg image and lesions.tsv"},
    "outcome": {"Description": "As in lesions.tsv; not used by the triage; n/a without a reference"},
    **TRIAGE,
}

LOOK_DESCRIBED: Mapping[str, Mapping[str, str]] = {
    "rank": {"Description": "1 is the likeliest missed lesion"},
    "p_lesion": {
        "Description": "Calibrated probability of being a missed lesion; n/a where the model ranks by probability_max"
    },
    "probability_max": {"Description": "Largest lesion probability in the candidate", "Units": "1"},
    "volume_mm3": {"Description": "Volume above a tenth of the threshold", "Units": "mm3"},
    "x_mm": {"Description": "Centroid, towards the right", "Units": "mm (RAS)"},
    "y_mm": {"Description": "Centroid, towards anterior", "Units": "mm (RAS)"},
    "z_mm": {"Description": "Centroid, towards superior", "Units": "mm (RAS)"},
    "signs": {
        "Description": "What shape and place suggest, names with commas between: thin (as vessels are), fluid_rim (lines deep "
        "fluid), surface (within 6 mm of the brain's surface), small (below 20 mm3); empty if nothing stands out"
    },
    "outcome": {"Description": "miss: on a missed reference lesion; other: not; n/a without a reference"},
}

VOXEL_DESCRIBED: Mapping[str, Mapping[str, str]] = {
    axis: {"Description": f"Centroid along the scan's {which} axis, from 0", "Units": "voxels"}
    for axis, which in (("i", "first"), ("j", "second"), ("k", "third"))
}
"""Where the header does not say which side is right: x_mm, y_mm and z_mm are then n/a."""


@dataclass(frozen=True, eq=False)
class Triaged:
    """What triage says of one scan.

    `lesions` has a row per instance: lesion, outcome, triage_p_false, triage_verdict, triage_reasons. `mask` is the
    predicted mask without the lesions called probably false. `look_here` lists likely misses, likeliest first.
    """

    scan: TriageScan
    lesions: pd.DataFrame
    mask: np.ndarray
    look_here: pd.DataFrame
    notes: tuple[str, ...]

    @property
    def n_false(self) -> int:
        """Lesions called probably false."""
        return int((self.lesions["triage_verdict"] == FALSE).sum())


def apply_triage(
    scan: ScanOutput | Explained, model: TriageModel, *, segmenter: AbstractSegmenter | None = None
) -> pd.DataFrame:
    """Columns triage_p_false, triage_verdict and triage_reasons for every instance of an explained scan, by `lesion`."""
    return triage_scan(scan, model, segmenter=segmenter).lesions


def triage_scan(
    scan: ScanOutput | Explained | TriageScan,
    model: TriageModel,
    *,
    segmenter: AbstractSegmenter | None = None,
    look: int = 10,
) -> Triaged:
    """Judges every explained predicted lesion of a scan, and lists at most `look` likely misses.

    `segmenter` is needed by models that ask the network again (features of context), the why table by those that know
    margins. Raises InputError if it is missing, or if the scan's channels are not those the model was fitted on.
    """
    seen = TriageScan.of(scan, method=str(model.facts.get("method", "")) or None)
    model.check_channels(seen.channels)
    extras = Extras.needed(model.families)
    if extras.asks and segmenter is None:
        raise InputError("This triage model asks the network again: name the network that explained the scan.")
    if extras.margins and seen.why is None:
        raise InputError(WHY_MISSING.format(where=f"the output of {seen.name.stem}"))
    labels = None if model.needs_maps else _all_labels(seen)
    if extras.margins and seen.why is not None:
        asked = set(seen.why["lesion"])
        labels = [label for label in (seen.maps if labels is None else labels) if label in asked]
    measured = measure_scan(seen, extras=extras, model=segmenter, labels=labels)
    lesions = _judge(seen, model, measured)
    false = lesions.loc[lesions["triage_verdict"] == FALSE, "lesion"].to_numpy(dtype=int)
    return Triaged(
        scan=seen,
        lesions=lesions,
        mask=seen.mask & ~np.isin(seen.labels, false),
        look_here=look_here(seen, model, count=look),
        notes=(*seen.notes, *_notes(seen, model, measured)),
    )


def look_here(scan: TriageScan, model: TriageModel, *, count: int = 10) -> pd.DataFrame:
    """Likely misses among sub-threshold candidates, likeliest first: columns `LOOK_COLUMNS` and, per channel, contrast_c.

    Of a scan whose header does not say which side is right, the coordinates are n/a and `i`, `j`, `k` its voxels.
    """
    found = find_candidates(scan)
    contrasts = {f"image_contrast_{channel}": f"contrast_{channel}" for channel in scan.channels}
    columns = [*LOOK_COLUMNS, *(() if scan.sided else VOXEL_DESCRIBED), *contrasts.values()]
    if found.empty:
        return pd.DataFrame(columns=columns)
    if not scan.sided:
        places = to_mm(found[[*PLACE]].to_numpy(dtype=float), np.linalg.inv(scan.affine))
        found = found.assign(**dict(zip(VOXEL_DESCRIBED, places.T, strict=True)), **dict.fromkeys(PLACE, np.nan))
    ranked = found.assign(p_lesion=np.nan if model.candidates is None else model.candidates.probability(found))
    if model.candidates is None:
        ranked = ranked.sort_values(["near_surface", "probability_max"], ascending=[True, False], kind="stable")
    else:
        ranked = ranked.sort_values(["p_lesion", "probability_max"], ascending=False, kind="stable")
    ranked = ranked.head(count)
    ranked["rank"] = np.arange(1, len(ranked) + 1)
    ranked["signs"] = [",".join(signs(row)) for row in ranked.to_dict(orient="records")]
    return ranked.rename(columns=contrasts).reindex(columns=columns).reset_index(drop=True)


def write_triage(triaged: Triaged, out: Path, *, model: TriageModel) -> list[Path]:
    """Writes `<stem>_triage.tsv/.json`, `<stem>_lookhere.tsv/.json` and `<stem>_label-L_desc-triage_mask.nii.gz`, and
    the verdicts into the cohort's table, beside the rows of the maps that were judged."""
    files = ScanFiles(Path(out), triaged.scan.name)
    table, look, mask = files.triage_table, files.triage_look, files.triage_mask
    forget_written(Path(out), files.name, "triage")
    write_image(
        mask,
        triaged.mask,
        triaged.scan.affine,
        dtype=bool,
        description="lesion mask after triage",
        sided=triaged.scan.sided,
    )
    write_table(look, triaged.look_here)
    places = {} if triaged.scan.sided else dict(VOXEL_DESCRIBED)
    write_json(look.with_suffix(".json"), dict(LOOK_DESCRIBED) | places | _contrasts(triaged.scan.channels))
    write_table(table, triaged.lesions)
    sidecar: dict[str, Any] = {name: dict(entry) for name, entry in DESCRIBED.items()}
    sidecar["Model"] = {"Threshold": model.threshold, "Fingerprint": model.fingerprint, **model.facts}
    sidecar["Features"] = {
        feature.name: {"Description": feature.words, "Family": feature.family, **vars(feature.phrased())}
        for feature in model.features
    }
    sidecar["Notes"] = list(triaged.notes)
    write_json(table.with_suffix(".json"), sidecar)
    judged = triaged.lesions[["lesion", *COLUMNS]].copy()
    judged[TRIAGE_MODEL] = [
        None if pd.isna(verdict) else model.fingerprint or None for verdict in judged["triage_verdict"]
    ]
    facts = triaged.scan.facts
    write_columns(Path(out), triaged.scan.name, judged, model=str(facts["fingerprint"]), method=str(facts["method"]))
    paths = [table, table.with_suffix(".json"), look, look.with_suffix(".json"), mask]
    note_written(Path(out), files.name, "triage", paths)
    return paths


def _judge(scan: TriageScan, model: TriageModel, measured: pd.DataFrame) -> pd.DataFrame:
    """The table of verdicts, in the order of the lesion table."""
    verdicts: dict[int, tuple[float, str | None, str | None]] = {}
    if len(measured):
        table = model.table(measured)
        for record, features, p in zip(
            measured.to_dict(orient="records"), table, model.probability(table), strict=True
        ):
            volume = float(record["volume_mm3"])
            if not model.knows(volume):
                low, high = model.facts["volume_mm3"]
                unknown = json.dumps({"volume_mm3": round(volume, 1), "known_mm3": [round(low, 1), round(high, 1)]})
                verdicts[int(record["lesion"])] = (float("nan"), None, unknown)
                continue
            false = bool(p >= model.threshold)
            told: dict[str, Any] = {"reasons": [each.as_dict() for each in reasons(model, features, false=false)]}
            if false:
                told |= {"signs": signs(record)}
                relied = reliance(scan.row(int(record["lesion"])), scan.channels)
                told |= {} if relied is None else {"reliance": relied}
            verdicts[int(record["lesion"])] = (float(p), FALSE if false else KEEP, json.dumps(told))
    rows = []
    for lesion, outcome in zip(scan.lesions["lesion"], scan.lesions["outcome"], strict=True):
        found: tuple[float, str | None, str | None] = verdicts.get(int(lesion), (float("nan"), None, None))
        rows.append({"lesion": int(lesion), "outcome": outcome, **dict(zip(COLUMNS, found, strict=True))})
    return pd.DataFrame(rows, columns=["lesion", "outcome", *COLUMNS])


def _notes(scan: TriageScan, model: TriageModel, measured: pd.DataFrame) -> list[str]:
    """Where this scan differs from what the model was fitted on."""
    notes = [str(model.facts["caution"])] if "caution" in model.facts else []
    must = [("fingerprint", "network"), ("method", "method"), ("target", "target"), ("samples", "samples")]
    for fact, what in must if model.needs_maps else must[:1]:
        fitted, here = model.facts.get(fact), scan.facts.get(fact)
        # Fingerprints say nothing to a reader; they stand in the sidecars.
        here_too = "" if fact == "fingerprint" else f" ({fitted}, here {here})"
        known = (fitted, model.facts.get("explained_by")) if fact == "fingerprint" else (fitted,)
        if fitted is not None and here is not None and here not in known and scan.maps:
            notes.append(f"The triage model was fitted on another {what}{here_too}: its probabilities may be off.")
    unknown = [
        name for name in model.names if len(measured) and not measured.reindex(columns=[name]).notna().any().all()
    ]
    if unknown:
        notes.append(f"Not known here, so taken as typical: {', '.join(unknown)}.")
    table = model.table(measured)
    if model.likeness is not None and model.likeness.distance(table) > model.likeness.limit:
        told = [f"{model.features[n].words} {here:.2g}" for n, here in model.likeness.farthest(table)]
        usual = [model.likeness.centre[n] for n, _ in model.likeness.farthest(table)]
        listed = ", ".join(f"{words} where {u:.2g} is usual" for words, u in zip(told, usual, strict=True))
        notes.append(
            f"The lesions of this scan are unlike those of the {model.facts['patients']} patients the triage model was "
            f"fitted on (median lesion: {listed}): do not rely on its verdicts, fit a model on patients like this one."
        )
    left = len(scan.judged()) - len(measured)
    if left > 0:
        notes.append(f"{left} predicted lesions were not explained and are kept without a verdict.")
    return notes


def _all_labels(scan: TriageScan) -> list[int]:
    return [int(label) for label in scan.judged()["lesion"]]


def judge_scan(
    out: Path, name: ScanName, triage: str, segmenter: AbstractSegmenter | ModelRef | None, *, look: int
) -> UnitResult:
    """Judges one finished scan of an output folder and writes what came of it: what a unit of work does."""
    model = load_triage(triage)
    triaged = triage_scan(
        read_scan(out, name), model, segmenter=None if segmenter is None else opened(segmenter), look=look
    )
    paths = write_triage(triaged, out, model=model)
    judged = int(triaged.lesions["triage_verdict"].notna().sum())
    note = f"{triaged.n_false} of {judged} lesions are probably false; {len(triaged.look_here)} places to look at for misses."
    return UnitResult(paths, note, {"Notes": list(triaged.notes)})


def _contrasts(channels: Sequence[str]) -> dict[str, dict[str, str]]:
    return {
        f"contrast_{channel}": {"Description": f"{channel} inside less the median at 1 to 4 mm around", "Units": "SD"}
        for channel in channels
    }
