"""One scan's work from prediction to table; what is there already under the same key is kept."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from lesionwise import lesion_table
from lesionwise.attribution.engine.session import Session
from lesionwise.attribution.result import Attribution, trimmed
from lesionwise.attribution.target import target_named
from lesionwise.errors import InputError
from lesionwise.fingerprint import fingerprint
from lesionwise.geometry.affine import voxel_sizes_mm
from lesionwise.geometry.volume import Case
from lesionwise.instances.instance import Instance
from lesionwise.instances.matching import select
from lesionwise.io.derivative import ScanFiles, read_saliency, write_saliency
from lesionwise.measures import effect_regions
from lesionwise.memory import MEMORY_SHARE, free_memory_bytes
from lesionwise.saliency import SaliencyMap
from lesionwise.segmenter import AbstractSegmenter, Placement
from lesionwise.types import ProgressFn
from lesionwise.units.explained import Explained, tabulate
from lesionwise.units.keys import digest, instance_key, instances_key, sidecar, stored
from lesionwise.units.packing import near, rounded
from lesionwise.units.prediction import Prediction, find_lesions, model_facts, predict_case
from lesionwise.units.record import remove_stale_maps, save_prediction, save_table
from lesionwise.units.settings import Settings, map_units


def explain_case(
    model: AbstractSegmenter,
    case: Case,
    settings: Settings,
    *,
    out: Path | None = None,
    progress_fn: ProgressFn | None = None,
    announce_fn: Callable[[str], None] | None = None,
    version: str = "",
    memory_bytes: int | None = None,
) -> Explained:
    """Predicts, finds the lesions, and explains those asked for.

    With `out`, every finished step is saved there at once and steps already there under the same key are read back.
    `announce_fn` gets sentences for people: what was found and the plan, before the long part starts. `memory_bytes`
    bounds what the attribution may hold at once (a share of the free memory, if None).
    """
    say = announce_fn or (lambda sentence: None)
    files = None if out is None else ScanFiles(Path(out), case.name)
    model, predicted, explained = find_case(model, case, settings, progress_fn=progress_fn, known=files)
    instances = explained.instances
    wanted = select(list(instances), settings.lesions, seed=settings.seed) if instances else []
    for note in explained.notes:
        say(f"Note: {note}")
    say(_census(instances, wanted))
    if files is not None:
        save_prediction(explained, files, version=version)
        remove_stale_maps(files, instances)
    maps = _explain(
        model,
        predicted.placement,
        explained,
        wanted,
        files=files,
        progress_fn=progress_fn,
        say=say,
        memory_bytes=memory_bytes,
    )
    explained = replace(explained, maps=maps)
    explained = replace(explained, lesions=tabulate(explained))
    if files is not None:
        save_table(explained, files)
    return explained


def find_case(
    model: AbstractSegmenter,
    case: Case,
    settings: Settings,
    *,
    progress_fn: ProgressFn | None = None,
    known: ScanFiles | None = None,
) -> tuple[AbstractSegmenter, Prediction, Explained]:
    """The network asked (see `AbstractSegmenter.for_case`), what it said, and the scan with its lesions found, none explained.

    `known` as in `predict_case`.
    """
    named, model = model, model.for_case(case)
    predicted = predict_case(model, case, device=settings.device, progress_fn=progress_fn, known=known)
    mask, instances, notes = find_lesions(model, case, predicted.probability, settings)
    channels = settings.method.channels(model.spec)
    explained = Explained(
        case=case,
        settings=settings,
        model=model_facts(named, used=model),
        prediction=predicted.probability,
        mask=mask,
        instances=tuple(instances),
        maps={},
        lesions=pd.DataFrame(columns=lesion_table.columns(channels)),
        columns=lesion_table.described(channels, units=map_units(settings)),
        map_channels=channels,
        notes=(*case.notes, *model.notes, *notes),
        keys={"PredictionKey": predicted.key, "InstancesKey": instances_key(case, predicted.key, instances)},
    )
    return model, predicted, explained


def _explain(
    model: AbstractSegmenter,
    placement: Placement,
    explained: Explained,
    wanted: Sequence[Instance],
    *,
    files: ScanFiles | None,
    progress_fn: ProgressFn | None,
    say: Callable[[str], None],
    memory_bytes: int | None,
) -> dict[int, SaliencyMap]:
    """Maps of the lesions asked for: read back where the key agrees, computed and saved in chunks otherwise."""
    settings, method = explained.settings, explained.settings.method
    maps: dict[int, SaliencyMap] = {}
    todo: list[tuple[Instance, str]] = []
    for instance in wanted:
        key = digest(
            explained.keys["PredictionKey"],
            np.ascontiguousarray(instance.voxels).tobytes(),
            fingerprint(method, target_named(settings.target)),
            repr((settings.seed, settings.snr, settings.lesion_window)),
            repr((settings.statistics, settings.views, settings.save_parts, settings.keep_mm)),
        )
        there = None if files is None else files.saliency(instance.label, method.name)
        kept = None if there is None or stored(sidecar(there)).get("Key") != key else _readable(there)
        if kept is not None:
            maps[instance.label] = kept
        else:
            todo.append((instance, key))
    if maps:
        say(f"{len(maps)} of {len(wanted)} maps are there already and are kept.")
    if not todo:
        return maps
    memory_bytes = memory_bytes or int(MEMORY_SHARE * free_bytes(settings.device))
    voxel_sets = [instance.voxels for instance, _ in todo]
    opened = Session.open(model.network, model.spec, placement, voxel_sets, method, settings.run_options(memory_bytes))
    started = time.perf_counter()
    with opened as session:
        plan = session.plan()
        say(f"Plan: {plan.describe()}.")
        found = session.stream(
            plan,
            healthy=explained.case.tissue.get("white_matter"),
            regions=_regions(explained, voxel_sets) if method.is_derivative else None,
            progress_fn=None if progress_fn is None else partial(progress_fn, "explain"),
        )
        for number, attribution in found:
            instance, key = todo[number]
            saliency = _as_map(attribution, explained, instance, key)
            maps[instance.label] = saliency
            if files is not None:
                _save(files, instance.label, saliency, attribution, explained)
    say(f"Explained {len(todo)} lesion{'s' if len(todo) != 1 else ''} in {time.perf_counter() - started:.0f} s.")
    return dict(sorted(maps.items()))


def _save(files: ScanFiles, label: int, saliency: SaliencyMap, attribution: Attribution, explained: Explained) -> None:
    """Writes a map and its companions; none of an earlier run with other settings may stay."""
    settings, shape = explained.settings, explained.case.image.shape
    desc = settings.method.name
    for stale in files.companions(label, desc):
        stale.unlink(missing_ok=True)
    snr_path = files.saliency(label, desc, stat="snr") if settings.snr else None
    for name, part in attribution.parts.items() if settings.save_parts else ():
        own = replace(saliency, data=part.data, box=part.box, se=part.se).placeable(shape)
        write_saliency(
            files.saliency(label, desc, stat=name), replace(own, provenance={**own.provenance, "Part": name})
        )
    write_saliency(files.saliency(label, desc), saliency, snr_path=snr_path)


def _readable(path: Path) -> SaliencyMap | None:
    """A map that is there already; None if it is gone or damaged, and has to be computed again."""
    try:
        found = read_saliency(path)
    except InputError:
        return None
    return found if "Statistics" in found.provenance else None


def free_bytes(device: str) -> int:
    """Memory that is free now: the GPU's for a GPU, else what this process may still take."""
    return int(torch.cuda.mem_get_info(device)[0]) if device.startswith("cuda") else free_memory_bytes()


def _as_map(attribution: Attribution, explained: Explained, instance: Instance, key: str) -> SaliencyMap:
    """The map as it is kept: digits that are noise rounded off, cropped to what is not 0, cut off where asked for."""
    settings = explained.settings
    channels = explained.map_channels
    provenance = {
        "Method": settings.method.name,
        "Quantitative": settings.method.quantitative,
        "Reduce": getattr(settings.method, "reduce", "n/a"),
        "Derivative": settings.method.is_derivative,
        "Approximation": ", ".join(attribution.details.get("approximation", [])) or "none",
        "NormalisationStatistics": attribution.details.get("statistics", "exact"),
        "Target": target_named(settings.target).name,
        "Samples": attribution.n_samples,
        "Seed": settings.seed,
        "ModelName": explained.model["Name"],
        "ModelFingerprint": explained.model["Fingerprint"],
        "ModelPreprocessing": explained.model.get("Preprocessing", []),
        "ModelCard": explained.model.get("Card", {}),
        "Statistics": _statistics(attribution, channels),
        "Details": attribution.details,
        "Instance": instance_key(instance),
        "Key": key,
    }
    data, affine, se = rounded(attribution.data, attribution.se), explained.case.image.affine, attribution.se
    box = attribution.box
    if settings.keep_mm is not None:
        box = near(box, instance.voxels, keep_mm=settings.keep_mm, sizes_mm=voxel_sizes_mm(affine))
        kept = data[(slice(None), *box.relative_to(attribution.box).slices)]
        beyond = np.abs(data).sum(axis=(1, 2, 3), dtype=float) - np.abs(kept).sum(axis=(1, 2, 3), dtype=float)
        provenance |= {"KeptMm": settings.keep_mm, "MassBeyond": [float(f"{value:.6g}") for value in beyond]}
    inside = box.relative_to(attribution.box)
    box = trimmed(box, data[(slice(None), *inside.slices)])
    crop = (slice(None), *box.relative_to(attribution.box).slices)
    found = SaliencyMap(
        np.ascontiguousarray(data[crop]), box, affine, channels, map_units(settings),
        None if se is None else np.ascontiguousarray(se[crop]), provenance, explained.case.sided,
    )  # fmt: skip
    return found.placeable(explained.case.image.shape)


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
    for ending, sums in (("", attribution.region_sums), ("_se", attribution.region_sums_se)):
        for region, values in zip(("in", "rim"), () if sums is None else sums, strict=sums is not None):
            for channel, value in zip(channels, values, strict=True):
                figures[f"effect_{region}{ending}_{channel}"] = _finite(float(value))
    return figures


def _regions(explained: Explained, voxel_sets: Sequence[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of every lesion its own voxels and those of its rim."""
    sizes = voxel_sizes_mm(explained.case.image.affine)
    return [effect_regions(voxels, explained.labels, sizes_mm=sizes) for voxels in voxel_sets]


def _census(instances: Sequence[Instance], wanted: Sequence[Instance]) -> str:
    if not instances:
        return "No lesion was found, and the reference (if any) has none: the table is empty."
    outcomes = [one.outcome for one in instances if one.outcome is not None]
    if not outcomes:
        return f"Found {len(instances)} lesions (no reference); {len(wanted)} to explain."
    counts = ", ".join(f"{outcomes.count(o)} {o}" for o in ("TP", "US", "FP", "FN", "TN") if o in outcomes)
    return f"Found {len(instances)} lesions ({counts}); {len(wanted)} to explain."


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
