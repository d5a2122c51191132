"""A scan's outputs on disk: written step by step, the mark of a finished scan last."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lesionwise.errors import InputError
from lesionwise.instances.instance import Instance
from lesionwise.io.derivative import (
    ScanFiles,
    write_dataset_description,
    write_json,
    write_table,
)
from lesionwise.io.nifti import write_image
from lesionwise.io.written import forget_written, note_written
from lesionwise.store import part_path, read_part, write_part
from lesionwise.units.explained import Explained
from lesionwise.units.keys import digest, instance_key, sidecar, stored


def save_prediction(explained: Explained, files: ScanFiles, *, version: str = "") -> None:
    """Probability, mask and instance numbers, with the facts that say where they come from."""
    write_dataset_description(files.out, version=version)
    affine, sided = explained.case.image.affine, explained.case.sided
    forget_written(files.out, files.name, "maps")
    files.lesions_sidecar.unlink(missing_ok=True)  # the scan is not finished again until the table is
    files.remove_triage()
    forget_written(files.out, files.name, "triage")
    files.remove_why()
    if stored(files.facts).get("PredictionKey") != explained.keys["PredictionKey"]:
        files.facts.unlink(missing_ok=True)  # first, so that facts never speak of another probability
        write_image(files.probability, explained.prediction, affine, description="lesion probability", sided=sided)
    write_image(files.mask, explained.mask, affine, dtype=bool, description="lesion mask", sided=sided)
    write_image(files.labels, explained.labels, affine, dtype=np.int16, description="lesion instances", sided=sided)
    names = pd.DataFrame(
        {
            "index": [one.label for one in explained.instances],
            "name": [f"lesion-{one.label:03d}" for one in explained.instances],
            "outcome": [one.outcome for one in explained.instances],
            "source": [one.source for one in explained.instances],
        }
    )
    write_table(files.labels_table, names)
    write_json(files.facts, facts(explained))


def facts(explained: Explained) -> dict[str, Any]:
    """Sidecar of the probability map: model, settings, sources, notes and keys."""
    settings = explained.settings
    threshold = explained.model["Threshold"] if settings.threshold is None else settings.threshold
    return {
        "Description": "Probability of lesion, fused over sliding windows, on the scan's own grid",
        "Model": dict(explained.model),
        "Channels": explained.model["Channels"],
        "Threshold": threshold,
        "Connectivity": settings.connectivity,
        "HasReference": explained.case.reference is not None,
        "ReferenceRule": dict(explained.case.reference_rule),
        "LeftRightKnown": explained.case.sided,
        "SourceFiles": dict(explained.case.sources),
        "Notes": list(explained.notes),
        **explained.keys,
    }


def save_table(explained: Explained, files: ScanFiles) -> None:
    """The table, its part of the cohort's table, and last the sidecar that marks the scan as finished."""
    write_table(files.lesions, explained.lesions)
    method = explained.settings.method.name
    write_part(
        files.out,
        files.name,
        explained.lesions,
        model=explained.model["Fingerprint"],
        method=method,
        instances=[digest(instance_key(one), str(one.outcome))[:12] for one in explained.instances],
    )
    write_json(files.lesions_sidecar, explained.columns)
    note_written(files.out, files.name, "maps", [*written(files, "*")])


def remove_stale_maps(files: ScanFiles, instances: Sequence[Instance]) -> None:
    """Removes maps of instances that are no more: another threshold makes another lesion of the same number."""
    current = {one.label: instance_key(one) for one in instances}
    for (label, desc), path in files.saliency_files().items():
        if stored(sidecar(path)).get("Instance") != current.get(label):
            for stale in (path, sidecar(path), *files.companions(label, desc)):
                stale.unlink(missing_ok=True)


def written(files: ScanFiles, method: str) -> list[Path]:
    """All files of a scan that explaining by a method writes; verdicts and reports are others' and may come and go."""
    maps = files.folder.glob(f"{files.name.stem}_seg-lesions_label-*_desc-{method}_*saliency.*")
    tables = [files.labels_table, files.lesions, files.lesions_sidecar]
    return [files.probability, files.facts, files.mask, files.labels, *tables, *sorted(maps)]


def is_recorded(files: ScanFiles, *, model: str, method: str) -> bool:
    """True if the cohort's table has the scan by this model (its fingerprint) and method, and can be read."""
    try:
        units = read_part(part_path(files.out, files.name)).units
    except (InputError, FileNotFoundError):
        return False
    return (model, method) in [(unit["model"], unit["method"]) for unit in units]
