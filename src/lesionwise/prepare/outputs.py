"""A prepared scan on disk: a BIDS derivative that `study` and `explain`, and any other tool, can read."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lesionwise.errors import InputError
from lesionwise.geometry.volume import ScanName
from lesionwise.io.derivative import BIDS_VERSION, write_json, write_table
from lesionwise.io.files import write_text
from lesionwise.io.nifti import write_image
from lesionwise.prepare.doubts import MEASURES
from lesionwise.prepare.figure import quality_figure
from lesionwise.prepare.registration import write_transform
from lesionwise.prepare.scan import Prepared
from lesionwise.types import MaskArray

BIDSIGNORE = """quality.tsv
quality.json
left_out.tsv
left_out.json
**/figures
**/*_quality.json
**/*_xfm.*
"""

TABLE = {
    "scan": {"Description": "Stem of the scan's file names"},
    "set_aside": {"Description": "True if a person must look at the figure before the scan is used"},
    "left_alone": {"Description": "True if the scan was aligned and brain-extracted already"},
    "doubts": {"Description": "What may be wrong with it, in sentences; n/a if nothing seems to be"},
    **{name: {"Description": text} for name, text in MEASURES.items()},
}
"""Columns of `quality.tsv`."""


@dataclass(frozen=True)
class PreparedFiles:
    """Where a prepared scan lies below `out`; `fixed` is the channel whose grid all others are on."""

    out: Path
    name: ScanName
    fixed: str = "FLAIR"

    def path(self, suffix: str) -> Path:
        """`OUT/sub-X/[ses-Y/]anat/<stem>_<suffix>`."""
        return self.out / self.name.folder / f"{self.name.stem}_{suffix}"

    def image(self, channel: str) -> Path:
        """A channel, ready to be explained."""
        space = "" if channel == self.fixed else f"space-{self.fixed}_"
        return self.path(f"{space}desc-preproc_{channel}.nii.gz")

    @property
    def brain(self) -> Path:
        """The brain on the fixed channel's grid."""
        return self.path("desc-brain_mask.nii.gz")

    @property
    def reference(self) -> Path:
        """The lesion reference on that grid, where one was moved."""
        return self.path(f"space-{self.fixed}_label-L_mask.nii.gz")

    def transform(self, channel: str) -> Path:
        """The motion of a channel onto the fixed one, as ITK writes it."""
        return self.path(f"from-{channel}_to-{self.fixed}_mode-image_xfm.txt")

    @property
    def quality(self) -> Path:
        """Measures, doubts and steps; written last, so that it marks a finished scan."""
        return self.path("desc-prepare_quality.json")

    @property
    def figure(self) -> Path:
        """What a person looks at."""
        folder = (self.out / self.name.folder).parent / "figures"
        return folder / f"{self.name.stem}_desc-prepare_quality.png"


def save(
    prepared: Prepared, files: PreparedFiles, *, sources: Mapping[str, Path], reference: MaskArray | None = None
) -> list[Path]:
    """Writes the scan and returns its files; the quality sidecar comes last."""
    written: list[Path] = []
    files.quality.unlink(missing_ok=True)
    affine = prepared.image.affine
    for channel in prepared.image.channels:
        path = files.image(channel)
        write_image(path, prepared.image.channel(channel), affine, description="prepared by lesionwise")
        written += [path, _sidecar(path, _how(prepared, channel, sources))]
    write_image(files.brain, prepared.brain, affine, dtype=bool, description="brain mask")
    about = {"Type": "Brain", "Sources": [str(path) for path in sources.values()], "Description": prepared.steps[-1]}
    written += [files.brain, _sidecar(files.brain, about)]
    for channel, rigid in prepared.motions.items():
        path = files.transform(channel)
        write_transform(path, rigid)
        note = {
            "Description": f"Takes points of {files.fixed} (LPS mm) to points of {channel}: resamples {channel} onto "
            f"{files.fixed}, as antsApplyTransforms and SimpleITK do",
            "Sources": [str(sources[channel]), str(sources[files.fixed])],
        }
        written += [path, _sidecar(path, note)]
    if reference is not None:
        write_image(files.reference, reference, affine, dtype=bool, description="lesion reference, nearest voxel")
        written += [files.reference]
    quality_figure(prepared, files.figure, title=files.name.stem)
    write_json(files.quality, _quality(prepared, files.name))
    return [*written, files.figure, files.quality]


def write_description(out: Path, *, version: str, raw: Path | None = None) -> None:
    """`dataset_description.json` and `.bidsignore` of the derivative; left alone if they are there already."""
    path = out / "dataset_description.json"
    if not path.exists():
        description: dict[str, Any] = {
            "Name": "lesionwise: scans aligned, brain-extracted and bias-corrected",
            "BIDSVersion": BIDS_VERSION,
            "DatasetType": "derivative",
            "GeneratedBy": [{"Name": "lesionwise prepare", "Version": version}],
        }
        if raw is not None:
            description["SourceDatasets"] = [{"URL": raw.resolve().as_uri()}]
        write_json(path, description)
    if not (out / ".bidsignore").exists():
        write_text(out / ".bidsignore", BIDSIGNORE)


def write_quality_table(out: Path) -> Path:
    """`OUT/quality.tsv`: a row per prepared scan, those set aside included, from the scans' sidecars."""
    rows = []
    for path in sorted(out.glob("sub-*/**/anat/*_desc-prepare_quality.json")):
        facts = read_quality(path)
        doubts = " ".join(facts["Doubts"])
        row = {"scan": facts["Scan"], "set_aside": facts["SetAside"], "left_alone": facts["LeftAlone"]}
        rows.append({**row, "doubts": doubts or None, **facts["Measures"]})
    table = pd.DataFrame(rows, columns=list(TABLE))
    write_table(out / "quality.tsv", table)
    write_json(out / "quality.json", TABLE)
    return out / "quality.tsv"


def read_quality(path: Path) -> dict[str, Any]:
    """What a scan's quality sidecar says. Raises InputError if it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"Expected the sidecar of a prepared scan, but {path} cannot be read.") from error


def _how(prepared: Prepared, channel: str, sources: Mapping[str, Path]) -> dict[str, Any]:
    return {
        "Sources": [str(sources[channel])],
        "SpatialReference": str(sources[prepared.fixed]),
        "SkullStripped": True,
        "LeftAlone": prepared.left_alone,
        "Steps": list(prepared.steps),
    }


def _quality(prepared: Prepared, name: ScanName) -> dict[str, Any]:
    quality = prepared.quality
    return {
        "Scan": name.stem,
        "SetAside": quality.set_aside,
        "LeftAlone": prepared.left_alone,
        "Doubts": [doubt.sentence for doubt in quality.doubts],
        "Steps": list(prepared.steps),
        "Measures": {name: float(np.round(value, 4)) for name, value in quality.measures.items()},
    }


def _sidecar(path: Path, content: Mapping[str, Any]) -> Path:
    sidecar = path.with_name(path.name.removesuffix(".gz").rpartition(".")[0] + ".json")
    write_json(sidecar, content)
    return sidecar
