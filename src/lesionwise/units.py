"""One scan's work: predict, find lesions, explain them, save - each step keyed by the content that it depends on.

A step whose key is found in the output folder is read back instead of computed again, so that an interrupted or
repeated run redoes only what is missing or has changed.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from lesionwise import lesion_table
from lesionwise.attribution.engine import stream
from lesionwise.attribution.gradient import SmoothGrad
from lesionwise.attribution.method import AbstractMethod
from lesionwise.attribution.plan import plan_attribution
from lesionwise.attribution.result import Attribution
from lesionwise.attribution.target import target_named
from lesionwise.errors import InputError
from lesionwise.instances.controls import place_controls, white_matter
from lesionwise.instances.instance import Instance, instances_to_labels
from lesionwise.instances.matching import find_instances, select
from lesionwise.io.derivative import (
    ScanFiles,
    read_saliency,
    write_dataset_description,
    write_json,
    write_saliency,
    write_table,
)
from lesionwise.io.nifti import read_image, write_image
from lesionwise.measures import SHELLS_MM, map_measures
from lesionwise.saliency import SaliencyMap
from lesionwise.segmenter import AbstractSegmenter, Placement
from lesionwise.store import write_part
from lesionwise.volume import Box, Case, voxel_sizes_mm
from lesionwise.windows import WindowGrid, predict, probability

MEMORY_SHARE = 0.6
"""Fraction of the free memory that explaining may take."""

ProgressFn = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Settings:
    """What a user may choose; the same names and meanings in every command.

    `threshold`, `min_size` None take the model's. `lesions` is "all", "largest:5" or "1,4". `controls` asks for that
    many control regions in healthy white matter.
    """

    method: AbstractMethod = field(default_factory=SmoothGrad)
    target: str = "log_odds"
    lesions: str = "all"
    controls: int = 0
    threshold: float | None = None
    connectivity: int = 18
    min_size: float | None = None
    min_size_unit: str = "voxels"
    rule: str = "overlap"
    one_to_one: bool = False
    seed: int = 0
    device: str = "cpu"
    snr: bool = False

    def __post_init__(self) -> None:
        if self.threshold is not None and not 0 < self.threshold < 1:
            raise InputError(f"A probability threshold must lie between 0 and 1, found {self.threshold}.")
        if self.connectivity not in (6, 18, 26):
            raise InputError(f"Connectivity must be 6, 18 or 26, found {self.connectivity}.")
        if self.controls < 0:
            raise InputError(f"The number of control regions must not be negative, found {self.controls}.")


@dataclass(frozen=True, eq=False)
class Prediction:
    """What the network says of a case: the lesion probability on the scan's grid, and how the case was laid on its grid."""

    probability: np.ndarray
    placement: Placement
    key: str


@dataclass(frozen=True, eq=False)
class Explained:
    """A scan with its lesions explained, in memory."""

    case: Case
    settings: Settings
    model: Mapping[str, Any]
    prediction: np.ndarray
    mask: np.ndarray
    instances: tuple[Instance, ...]
    maps: Mapping[int, SaliencyMap]
    lesions: pd.DataFrame
    columns: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    keys: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def labels(self) -> np.ndarray:
        """Instance numbers (i, j, k)."""
        return instances_to_labels(self.instances, self.case.image.shape)


def model_facts(model: AbstractSegmenter) -> dict[str, Any]:
    """Which model spoke: name, fingerprint, what its card says."""
    spec = model.spec
    return {
        "Name": spec.name,
        "Fingerprint": model.fingerprint,
        "Channels": list(spec.channels),
        "Window": list(spec.window),
        "Threshold": spec.threshold,
        "Card": {key: value for key, value in spec.card.items() if isinstance(value, str | int | float)},
    }


def predict_case(
    model: AbstractSegmenter,
    case: Case,
    *,
    device: str = "cpu",
    progress_fn: ProgressFn | None = None,
    known: ScanFiles | None = None,
) -> Prediction:
    """Lesion probability on the scan's grid; 0 where the network's grid does not reach.

    `known` names an output folder from which an earlier, identical prediction is read back.
    """
    placement = model.place(case)
    key = _digest(case_key(case), model.fingerprint)
    if known is not None and _stored(known.facts).get("PredictionKey") == key and known.probability.is_file():
        return Prediction(read_image(known.probability)[0], placement, key)
    grid = WindowGrid.of(model.spec, _shape(placement.input))
    step = None if progress_fn is None else lambda done, total: progress_fn("predict", done, total)
    logits = predict(model.network, placement.input.to(device), grid, progress_fn=step).cpu()
    on_scan = probability(placement.to_scan.forward(logits), model.spec)
    if not placement.to_scan.is_identity:
        reach = placement.to_scan.forward(torch.ones(_shape(placement.input)))
        on_scan = torch.where(reach > 0, on_scan, torch.zeros_like(on_scan))
    return Prediction(np.ascontiguousarray(on_scan.numpy(), dtype=np.float32), placement, key)


def find_lesions(
    model: AbstractSegmenter, case: Case, prediction: np.ndarray, settings: Settings
) -> tuple[np.ndarray, list[Instance], tuple[str, ...]]:
    """Mask (p > threshold), instances with outcome, control regions, and sentences about what could not be placed."""
    threshold = model.spec.threshold if settings.threshold is None else settings.threshold
    mask = prediction > threshold
    instances = find_instances(
        mask,
        affine=case.image.affine,
        reference=case.reference,
        connectivity=settings.connectivity,
        min_size=model.spec.min_size_vox if settings.min_size is None else settings.min_size,
        min_size_unit=settings.min_size_unit if settings.min_size is not None else "voxels",  # type: ignore[arg-type]
        rule=settings.rule,  # type: ignore[arg-type]
        one_to_one=settings.one_to_one,
    )
    notes: tuple[str, ...] = ()
    if settings.controls and instances:
        healthy = white_matter(case, seed=settings.seed)
        avoid = mask if case.reference is None else mask | case.reference
        placed = place_controls(
            instances,
            white_matter=healthy.mask,
            avoid=avoid,
            rng=np.random.default_rng(settings.seed),
            n=settings.controls,
        )
        instances = [*instances, *placed.instances]
        notes = (healthy.note, *placed.failures, *placed.notes)
    return mask, instances, notes


def explain_case(
    model: AbstractSegmenter,
    case: Case,
    settings: Settings,
    *,
    out: Path | None = None,
    progress_fn: ProgressFn | None = None,
    announce_fn: Callable[[str], None] | None = None,
    version: str = "",
) -> Explained:
    """Predicts, finds the lesions, and explains those asked for.

    With `out`, every finished step is saved there at once and steps already there under the same key are read back.
    `announce_fn` gets sentences for people: what was found and the plan, before the long part starts.
    """
    say = announce_fn or (lambda sentence: None)
    files = None if out is None else ScanFiles(Path(out), case.name)
    predicted = predict_case(model, case, device=settings.device, progress_fn=progress_fn, known=files)
    mask, instances, notes = find_lesions(model, case, predicted.probability, settings)
    wanted = select(instances, settings.lesions) if instances else []
    say(_census(instances, wanted))
    instances_key = _digest(
        predicted.key,
        b"" if case.reference is None else np.packbits(case.reference).tobytes(),
        *(np.ascontiguousarray(one.voxels).tobytes() + str((one.label, one.outcome)).encode() for one in instances),
    )
    keys = {"PredictionKey": predicted.key, "InstancesKey": instances_key}
    explained = Explained(
        case=case,
        settings=settings,
        model=model_facts(model),
        prediction=predicted.probability,
        mask=mask,
        instances=tuple(instances),
        maps={},
        lesions=pd.DataFrame(columns=lesion_table.columns(model.spec.channels)),
        columns=lesion_table.described(model.spec.channels, units=map_units(settings)),
        notes=(*case.notes, *notes),
        keys=keys,
    )
    if files is not None:
        save_prediction(explained, files, version=version)
    maps = _explain(model, predicted.placement, explained, wanted, files=files, progress_fn=progress_fn, say=say)
    explained = replace(explained, maps=maps)
    explained = replace(explained, lesions=tabulate(explained))
    if files is not None:
        save_table(explained, files)
    return explained


def tabulate(explained: Explained) -> pd.DataFrame:
    """One row per instance, in the order of their numbers; map columns are missing for those not explained."""
    channels = tuple(explained.model["Channels"])
    rows = [_row(explained, instance, channels) for instance in explained.instances]
    table = pd.DataFrame(rows, columns=lesion_table.columns(channels))
    table["n_samples"] = table["n_samples"].astype("Int64")
    table["converged"] = table["converged"].astype("boolean")
    return table


def save_prediction(explained: Explained, files: ScanFiles, *, version: str = "") -> None:
    """Probability, mask and instance numbers, with the facts that say where they come from."""
    write_dataset_description(files.out, version=version)
    affine = explained.case.image.affine
    files.lesions_sidecar.unlink(missing_ok=True)  # the scan is not finished again until the table is
    if _stored(files.facts).get("PredictionKey") != explained.keys["PredictionKey"]:
        write_image(files.probability, explained.prediction, affine, description="lesion probability")
    write_image(files.mask, explained.mask, affine, dtype=bool, description="lesion mask")
    write_image(files.labels, explained.labels, affine, dtype=np.int16, description="lesion instances")
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
        "Sources": dict(explained.case.sources),
        "Notes": list(explained.notes),
        **explained.keys,
    }


def save_table(explained: Explained, files: ScanFiles) -> None:
    """The table, its part of the cohort's table, and last the sidecar that marks the scan as finished."""
    write_table(files.lesions, explained.lesions)
    method = explained.settings.method.name
    write_part(files.out, files.name, explained.lesions, model=explained.model["Fingerprint"], method=method)
    write_json(files.lesions_sidecar, explained.columns)


def case_key(case: Case) -> str:
    """Hash of everything in a case that a prediction depends on."""
    return _digest(
        np.ascontiguousarray(case.image.data).tobytes(),
        np.ascontiguousarray(case.image.affine).tobytes(),
        repr(case.image.channels),
        np.packbits(case.head).tobytes(),
    )


def _explain(
    model: AbstractSegmenter,
    placement: Placement,
    explained: Explained,
    wanted: Sequence[Instance],
    *,
    files: ScanFiles | None,
    progress_fn: ProgressFn | None,
    say: Callable[[str], None],
) -> dict[int, SaliencyMap]:
    """Maps of the lesions asked for: read back where the key agrees, computed and saved in chunks otherwise."""
    settings, method = explained.settings, explained.settings.method
    maps: dict[int, SaliencyMap] = {}
    todo: list[tuple[Instance, str]] = []
    for instance in wanted:
        key = _digest(
            explained.keys["PredictionKey"],
            np.ascontiguousarray(instance.voxels).tobytes(),
            repr((method, settings.target, settings.seed, settings.snr)),
        )
        stored = None if files is None else files.saliency(instance.label, method.name)
        if stored is not None and stored.is_file() and _stored(_sidecar(stored)).get("Key") == key:
            maps[instance.label] = read_saliency(stored)
        else:
            todo.append((instance, key))
    if maps:
        say(f"{len(maps)} of {len(wanted)} maps are there already and are kept.")
    if not todo:
        return maps
    common: dict[str, Any] = {
        "method": method,
        "target": settings.target,
        "device": settings.device,
        "memory_bytes": int(MEMORY_SHARE * free_memory_bytes(settings.device)),
    }
    voxel_sets = [instance.voxels for instance, _ in todo]
    plan = plan_attribution(model.network, model.spec, placement, voxel_sets, **common)
    say(f"Plan: {plan.describe()}.")
    started = time.perf_counter()
    found = stream(
        model.network,
        model.spec,
        placement,
        voxel_sets,
        plan=plan,
        seed=settings.seed,
        healthy=explained.case.tissue.get("white_matter"),
        progress_fn=None if progress_fn is None else partial(progress_fn, "explain"),
        **common,
    )
    for number, attribution in found:
        instance, key = todo[number]
        saliency = _as_map(attribution, explained, key)
        maps[instance.label] = saliency
        if files is not None:
            path = files.saliency(instance.label, method.name)
            snr_path = files.saliency(instance.label, method.name, stat="snr") if settings.snr else None
            write_saliency(path, saliency, snr_path=snr_path)
    say(f"Explained {len(todo)} lesions in {time.perf_counter() - started:.0f} s.")
    return dict(sorted(maps.items()))


def free_memory_bytes(device: str) -> int:
    """Memory that is free now: the GPU's for a GPU, else the machine's."""
    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info(device)[0])
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return 8 << 30


def map_units(settings: Settings) -> str:
    """Unit of the map's values."""
    return settings.method.units(target_named(settings.target))


def _as_map(attribution: Attribution, explained: Explained, key: str) -> SaliencyMap:
    settings = explained.settings
    channels = tuple(explained.model["Channels"])
    provenance = {
        "Method": settings.method.name,
        "Quantitative": settings.method.quantitative,
        "Reduce": getattr(settings.method, "reduce", "n/a"),
        "Target": settings.target,
        "Samples": attribution.n_samples,
        "Seed": settings.seed,
        "ModelName": explained.model["Name"],
        "ModelFingerprint": explained.model["Fingerprint"],
        "Statistics": _statistics(attribution, channels),
        "Details": attribution.details,
        "Key": key,
    }
    return SaliencyMap(
        attribution.data,
        attribution.box,
        explained.case.image.affine,
        channels,
        map_units(settings),
        attribution.se,
        provenance,
    )


def _statistics(attribution: Attribution, channels: Sequence[str]) -> dict[str, Any]:
    """Figures of the table that only the draws know; None where there are none."""
    figures: dict[str, Any] = {
        "n_samples": attribution.n_samples,
        "converged": attribution.converged,
        "target_mean": _finite(float(attribution.target_mean)),
        "seconds": round(attribution.seconds, 3),
    }
    for measure in ("peak", "trough", "peak_se"):
        values = getattr(attribution, measure)
        for number, channel in enumerate(channels):
            figures[f"{measure}_{channel}"] = None if values is None else _finite(float(values[number]))
    return figures


def _row(explained: Explained, instance: Instance, channels: tuple[str, ...]) -> dict[str, Any]:
    inside = explained.prediction[instance.index]
    x, y, z = instance.centroid_mm
    row: dict[str, Any] = {
        "lesion": instance.label,
        "outcome": instance.outcome,
        "volume_mm3": instance.volume_mm3,
        "x_mm": x,
        "y_mm": y,
        "z_mm": z,
        "probability_mean": float(inside.mean(dtype=float)),
        "probability_max": float(inside.max()),
        "iou": instance.iou if instance.outcome is not None else None,
        "n_samples": None,
        "converged": None,
    }
    saliency = explained.maps.get(instance.label)
    if saliency is None:
        return row
    sizes = voxel_sizes_mm(explained.case.image.affine)
    reach = int(np.ceil(SHELLS_MM[-1][1] / min(sizes)))
    box = saliency.box.union(Box.around(instance.voxels, margin=reach, shape=explained.case.image.shape))
    data = np.zeros((len(channels), *box.shape), dtype=np.float32)
    data[(slice(None), *saliency.box.relative_to(box).slices)] = saliency.data
    labels = explained.labels[box.slices]
    row.update(saliency.provenance["Statistics"])
    row.update(
        map_measures(
            data,
            box,
            instance.voxels,
            others=(labels != 0) & (labels != instance.label),
            sizes_mm=sizes,
            channels=channels,
        )
    )
    return row


def _census(instances: Sequence[Instance], wanted: Sequence[Instance]) -> str:
    if not instances:
        return "No lesion was found, and the reference (if any) has none: the table is empty."
    outcomes = [one.outcome for one in instances if one.outcome is not None]
    if not outcomes:
        return f"Found {len(instances)} lesions (no reference); {len(wanted)} to explain."
    counts = ", ".join(f"{outcomes.count(o)} {o}" for o in ("TP", "US", "FP", "FN", "TN") if o in outcomes)
    return f"Found {len(instances)} lesions ({counts}); {len(wanted)} to explain."


def _digest(*parts: bytes | str) -> str:
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()[:24]


def _stored(path: Path) -> Mapping[str, Any]:
    """A sidecar's content, empty if it is missing or broken (the step is then computed again)."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _sidecar(path: Path) -> Path:
    return path.with_name(path.name.replace(".nii.gz", ".json"))


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _shape(tensor: torch.Tensor) -> tuple[int, int, int]:
    i, j, k = tensor.shape[-3:]
    return int(i), int(j), int(k)
