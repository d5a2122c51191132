"""The output folder: a BIDS derivative whose names and columns are a contract (docs/outputs.md)."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lesionwise.errors import ImageFileError, InputError
from lesionwise.geometry.volume import ScanName
from lesionwise.io.checks import TEXT, check_columns, check_facts, check_lesions, check_map, read_json, read_table
from lesionwise.io.files import write_text
from lesionwise.io.nifti import read_array, read_image, write_image
from lesionwise.saliency import SaliencyMap
from lesionwise.types import Affine

BIDS_VERSION = "1.10.0"
BIDSIGNORE = """config.toml
lesions.parquet
report.html
**/*_report.html
**/*_lesions.*
**/*_saliency.*
**/*_triage.*
**/*_lookhere.*
**/*_why.*
experiments
triage
figures
study
"""


@dataclass(frozen=True)
class ScanFiles:
    """Where one scan's outputs lie below `out`."""

    out: Path
    name: ScanName

    @property
    def folder(self) -> Path:
        """`OUT/sub-X/[ses-Y/]anat`."""
        return self.out / self.name.folder

    def path(self, suffix: str) -> Path:
        """`OUT/sub-X/[ses-Y/]anat/<stem>_<suffix>`."""
        return self.folder / f"{self.name.stem}_{suffix}"

    @property
    def probability(self) -> Path:
        """Lesion probability on the scan's grid."""
        return self.path("label-L_probseg.nii.gz")

    @property
    def facts(self) -> Path:
        """Sidecar of the probability: model, settings, sources, notes, unit keys."""
        return self.path("label-L_probseg.json")

    @property
    def mask(self) -> Path:
        """p > threshold, before small components are dropped."""
        return self.path("label-L_mask.nii.gz")

    @property
    def labels(self) -> Path:
        """Instance numbers."""
        return self.path("seg-lesions_dseg.nii.gz")

    @property
    def labels_table(self) -> Path:
        """What each instance number is."""
        return self.path("seg-lesions_dseg.tsv")

    @property
    def lesions(self) -> Path:
        """One row per instance."""
        return self.path("lesions.tsv")

    @property
    def lesions_sidecar(self) -> Path:
        """Every column of the table described with its unit; written last, so that it marks a finished scan."""
        return self.path("lesions.json")

    @property
    def triage_table(self) -> Path:
        """Verdicts of triage, a row per instance."""
        return self.path("triage.tsv")

    @property
    def triage_look(self) -> Path:
        """Where triage would look for missed lesions."""
        return self.path("lookhere.tsv")

    @property
    def triage_mask(self) -> Path:
        """The predicted mask without the lesions that triage calls probably false."""
        return self.path("label-L_desc-triage_mask.nii.gz")

    @property
    def why_table(self) -> Path:
        """What would have changed the network's mind, a row per lesion asked about."""
        return self.path("why.tsv")

    def remove_why(self) -> None:
        """Takes away answers about lesions that are about to be found anew."""
        self.why_table.unlink(missing_ok=True)
        self.why_table.with_suffix(".json").unlink(missing_ok=True)

    def remove_triage(self) -> None:
        """Takes away verdicts on maps that are about to be replaced."""
        for table in (self.triage_table, self.triage_look):
            table.unlink(missing_ok=True)
            table.with_suffix(".json").unlink(missing_ok=True)
        self.triage_mask.unlink(missing_ok=True)

    def saliency(self, label: int, desc: str, *, stat: str | None = None) -> Path:
        """Map of one lesion by one method; `stat="snr"` is its signal-to-noise companion."""
        middle = f"_stat-{stat}" if stat else ""
        return self.path(f"seg-lesions_label-{label:03d}_desc-{desc}{middle}_saliency.nii.gz")

    def companions(self, label: int, desc: str) -> list[Path]:
        """Files beside a map: signal-to-noise, the parts of a split map, and their sidecars."""
        return sorted(self.folder.glob(f"{self.name.stem}_seg-lesions_label-{label:03d}_desc-{desc}_stat-*_saliency.*"))

    def saliency_files(self) -> dict[tuple[int, str], Path]:
        """All maps there are, by (label, desc)."""
        found = {}
        for path in sorted(self.folder.glob(f"{self.name.stem}_seg-lesions_label-*_desc-*_saliency.nii.gz")):
            entities = dict(part.split("-", 1) for part in path.name.split("_") if "-" in part)
            if "stat" not in entities:
                found[int(entities["label"]), entities["desc"]] = path
        return found


@dataclass(frozen=True, eq=False)
class ScanOutput:
    """One explained scan, read back from its files. Large arrays are read when first asked for."""

    files: ScanFiles
    lesions: pd.DataFrame
    columns: Mapping[str, Any]
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> ScanName:
        """Which scan this is."""
        return self.files.name

    @property
    def channels(self) -> tuple[str, ...]:
        """The model's input channels."""
        return tuple(self.facts["Channels"])

    @property
    def sources(self) -> dict[str, Path]:
        """Input image per channel, and the reference as `reference` if there was one; they may have moved since."""
        return {what: Path(path) for what, path in self.facts.get("SourceFiles", {}).items()}

    @cached_property
    def probability(self) -> np.ndarray:
        """Lesion probability (i, j, k)."""
        return read_image(self.files.probability)[0]

    @cached_property
    def affine(self) -> Affine:
        """Takes the scan's voxels to RAS mm."""
        return read_image(self.files.probability)[1]

    @cached_property
    def mask(self) -> np.ndarray:
        """Predicted mask (i, j, k), before small components are dropped."""
        return read_image(self.files.mask)[0] > 0

    @cached_property
    def labels(self) -> np.ndarray:
        """Instance numbers (i, j, k)."""
        return read_image(self.files.labels)[0].astype(np.int32)

    @cached_property
    def maps(self) -> dict[int, dict[str, SaliencyMap]]:
        """Maps by lesion and method (`desc`)."""
        found: dict[int, dict[str, SaliencyMap]] = {}
        for (label, desc), path in self.files.saliency_files().items():
            found.setdefault(label, {})[desc] = read_saliency(path)
        return found


def read_scan(out: Path, name: ScanName) -> ScanOutput:
    """One finished scan of an output folder.

    Raises InputError if the scan is not there, was not finished, or has files that are not what they should be.
    """
    files = ScanFiles(Path(out), name)
    for path in (files.facts, files.lesions, files.lesions_sidecar):
        if not path.is_file():
            raise InputError(f"Expected a finished scan {name.stem} in {out}, but {path.name} is missing there.")
    table = read_table(files.lesions, text=TEXT)
    table["outcome"] = table["outcome"].astype(object).where(table["outcome"].notna(), None)
    facts = read_json(files.facts)
    check_lesions(table, files.lesions)
    check_facts(facts, files.facts)
    return ScanOutput(files, table, read_json(files.lesions_sidecar), facts)


@dataclass(frozen=True, eq=False)
class TriageOutput:
    """What triage said of one scan, read back from its files.

    `verdicts` has a row per instance; `look_here` the likely misses, likeliest first, None if that table is not there.
    `notes` say where the verdicts should not be relied on, `model` holds the facts of the model that judged, `features`
    how each of its features is told.
    """

    verdicts: pd.DataFrame
    look_here: pd.DataFrame | None
    notes: tuple[str, ...] = ()
    model: Mapping[str, Any] = field(default_factory=dict)
    features: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


def read_triage(files: ScanFiles) -> TriageOutput | None:
    """What triage left beside a scan; None if it was not triaged since it was explained."""
    if not files.triage_table.is_file():
        return None
    sidecar_path = files.triage_table.with_suffix(".json")
    sidecar = read_json(sidecar_path) if sidecar_path.is_file() else {}
    notes, model, features = sidecar.get("Notes", []), sidecar.get("Model", {}), sidecar.get("Features", {})
    if not isinstance(notes, list) or not isinstance(model, dict) or not isinstance(features, dict):
        raise InputError(f"Expected notes and a model's facts in {sidecar_path}, found something else.")
    look, verdicts = files.triage_look, read_table(files.triage_table, text=TEXT)
    check_columns(verdicts, ("lesion", "triage_p_false", "triage_verdict", "triage_reasons"), files.triage_table)
    found = read_table(look, text=TEXT) if look.is_file() else None
    if found is not None:
        check_columns(found, ("rank", "probability_max", "x_mm", "y_mm", "z_mm", "volume_mm3"), look)
    return TriageOutput(verdicts, found, tuple(str(note) for note in notes), model, features)


WHY_WORDS = ("outcome", "shapley_leading", "stability", "stability_source")
WHY_TEXT = (*WHY_WORDS, "without_neighbours_found")
"""Columns of the why table that hold words, or a truth that may be missing."""


def read_why(files: ScanFiles) -> pd.DataFrame | None:
    """What `lesionwise why` left beside a scan; None if it was not asked since the scan was explained."""
    finished = files.why_table.with_suffix(".json").is_file() and files.why_table.is_file()
    return read_table(files.why_table, text=WHY_TEXT) if finished else None


def list_scans(out: Path) -> list[ScanName]:
    """All finished scans of an output folder, sorted."""
    names = []
    for path in sorted(Path(out).glob("sub-*/**/*_lesions.json")):
        names.append(ScanName.of_stem(path.name))
    return names


def write_dataset_description(out: Path, *, version: str, raw: Path | None = None) -> None:
    """`dataset_description.json` and `.bidsignore` of the derivative; left alone if they are there already."""
    path = out / "dataset_description.json"
    if not path.exists():
        description: dict[str, Any] = {
            "Name": "lesionwise: instance-level explanations of lesions",
            "BIDSVersion": BIDS_VERSION,
            "DatasetType": "derivative",
            "GeneratedBy": [{"Name": "lesionwise", "Version": version}],
        }
        if raw is not None:
            description["SourceDatasets"] = [{"URL": raw.resolve().as_uri()}]
        write_json(path, description)
    if not (out / ".bidsignore").exists():
        write_text(out / ".bidsignore", BIDSIGNORE)


def write_saliency(path: Path, saliency: SaliencyMap, *, snr_path: Path | None = None) -> None:
    """The 4-D map (i, j, k, channel) and its sidecar; with `snr_path` also its signal-to-noise map.

    An old sidecar goes first and the new one comes last, so that a sidecar never speaks of another map.
    """
    sidecar_path = path.with_name(path.name.replace(".nii.gz", ".json"))
    sidecar_path.unlink(missing_ok=True)
    write_image(
        path,
        np.moveaxis(saliency.data, 0, -1),
        saliency.affine,
        description="signed saliency, a volume per channel",
        sided=saliency.sided,
    )
    if snr_path is not None and saliency.snr is not None:
        write_image(
            snr_path,
            np.moveaxis(saliency.snr, 0, -1),
            saliency.affine,
            description="|map| / standard error",
            sided=saliency.sided,
        )
    sidecar = {
        "Units": saliency.units,
        "Channels": list(saliency.channels),
        "CropStart": list(saliency.box.start),
        "CropStop": list(saliency.box.stop),
        **saliency.provenance,
    }
    write_json(sidecar_path, sidecar)


def read_saliency(path: Path) -> SaliencyMap:
    """A map with what its sidecar and its signal-to-noise companion (if written) say.

    Raises InputError if one of the files is missing, damaged, or speaks of another map.
    """
    data, affine = read_array(path)
    data = data[..., None] if data.ndim == 3 else data
    sidecar_path = path.with_name(path.name.replace(".nii.gz", ".json"))
    sidecar = read_json(sidecar_path)
    box, channels = check_map(sidecar, data.shape, sidecar_path)
    scan_affine = affine.copy()
    scan_affine[:3, 3] -= affine[:3, :3] @ np.asarray(box.start, dtype=float)
    values = np.ascontiguousarray(np.moveaxis(data, -1, 0), dtype=np.float32)
    if not np.isfinite(values).all():
        raise ImageFileError(f"Expected finite values in the map {path}, found others.")
    se = None
    snr_path = path.with_name(path.name.replace("_saliency.nii.gz", "_stat-snr_saliency.nii.gz"))
    if snr_path.is_file():
        snr, _ = read_array(snr_path)
        snr = np.moveaxis(snr[..., None] if snr.ndim == 3 else snr, -1, 0)
        if snr.shape != values.shape:
            raise ImageFileError(f"Expected {snr_path} with the shape of its map, {values.shape}, found {snr.shape}.")
        se = np.divide(np.abs(values), snr, out=np.zeros_like(values), where=snr > 0)
    known = {"Units", "Channels", "CropStart", "CropStop"}
    provenance = {key: value for key, value in sidecar.items() if key not in known}
    return SaliencyMap(values, box, scan_affine, channels, str(sidecar["Units"]), se, provenance)


def write_table(path: Path, table: pd.DataFrame) -> None:
    """A BIDS table: tab-separated, `n/a` for what is missing, floats with seven significant digits."""
    write_text(path, table.to_csv(sep="\t", index=False, na_rep="n/a", float_format="%.7g", lineterminator="\n"))


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Indented JSON, written whole."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
