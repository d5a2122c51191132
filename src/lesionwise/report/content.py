"""What a scan's page knows: everything that its scripts show, as JSON, with large arrays apart."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lesionwise.charts import palette
from lesionwise.geometry.affine import shifted_affine, voxel_volume_mm3
from lesionwise.report.anatomy import MIDLINE_MM, HeadAnatomy
from lesionwise.report.limits import ColourScale, colour_limit
from lesionwise.report.narrative import NO_MAP, headline, per_voxel, place, sentences, short_units, unmeasured, warnings
from lesionwise.report.payload import Frame, PackingPlan, Store, map_blobs, volumes
from lesionwise.report.profile import Neighbourhood, distance_profile, extremes
from lesionwise.report.pushes import beside, is_derivative, pushes_of
from lesionwise.report.references import ReferenceLesions
from lesionwise.report.scene import ScanView
from lesionwise.report.settings import method_words
from lesionwise.report.told import finite
from lesionwise.report.verdicts import Verdict, candidate
from lesionwise.report.viewers import Layers, fsleyes_command
from lesionwise.report.why import why_words
from lesionwise.saliency import SaliencyMap


def scene_content(scene: ScanView, store: Store, *, cohort: pd.DataFrame | None = None) -> dict[str, Any]:
    """Everything that the page's scripts know, as JSON; large arrays go to `store`."""
    frame, plan = Frame.of(scene), PackingPlan.of(scene)
    if store.address_fn is not None:
        plan = PackingPlan(24.0, "int16", tuple(sorted({label for label, _ in scene.map_files})))
    affine = shifted_affine(scene.affine, frame.box.start)
    offset = np.eye(4)
    offset[:3, 3] = frame.box.start
    limits = _Limits()
    anatomy, reference = HeadAnatomy.of(scene), ReferenceLesions.of(scene)
    lesions = [
        _lesion(scene, frame, plan, store, limits, row, anatomy, reference) for row in scene.lesions.to_dict("records")
    ]
    return {
        "title": scene.name.stem,
        "run": str(scene.facts.get("InstancesKey", ""))[:12],
        "shape": list(frame.box.shape),
        "voxel_mm": list(scene.voxel_sizes_mm),
        "affine": affine.tolist(),
        "to_source": (scene.turn.to_source @ offset).tolist(),
        "tilt_deg": scene.tilt_deg,
        "sided": scene.sided,
        "channels": list(scene.channels),
        "map_channels": list(scene.saliency_channels),
        "descs": list(scene.descs),
        "margin_mm": plan.margin_mm,
        "snr_step": 0.5,
        "threshold": scene.facts.get("Threshold"),
        "volumes": volumes(scene, frame, store),
        "limits": limits.shared(scene),
        "lesions": lesions,
        "likely_misses": _likely_misses(scene, frame),
        "names": {desc: method_words(desc) for desc in scene.descs},
        "cohort": _cohort(cohort, scene.channels),
        "palette": {
            "outcomes": {key: {**vars(style), "ink": style.ink} for key, style in palette.OUTCOMES.items()},
            "channels": {channel: palette.series_colour(number) for number, channel in enumerate(scene.channels)},
            "signed": palette.signed_lut().tolist(),
        },
    }


class _Limits:
    """Colour limits shared by all lesions of the scan, per method."""

    def __init__(self) -> None:
        self._tops: dict[str, list[float]] = {}
        self._first: dict[str, SaliencyMap] = {}

    def add(self, desc: str, saliency: SaliencyMap, voxels: int) -> None:
        top = float(np.abs(saliency.data).max(initial=0))
        self._tops.setdefault(desc, []).append(top * voxels if is_derivative(saliency.provenance) else top)
        self._first.setdefault(desc, saliency)

    def shared(self, scene: ScanView) -> dict[str, dict[str, Any]]:
        found = {}
        for desc, saliency in self._first.items():
            summed = is_derivative(saliency.provenance)
            scale = colour_scale(scene, saliency) if desc == scene.descs[0] else None
            found[desc] = {
                "limit": (scale or ColourScale(colour_limit(self._tops[desc]), summed)).limit,
                "summed": summed,
                "quantitative": bool(saliency.provenance.get("Quantitative", True)),
                "name": method_words(desc),
                "units": saliency.units,
                "short": short_units(saliency.units),
            }
        return found


def colour_scale(scene: ScanView, saliency: SaliencyMap) -> ColourScale | None:
    """The colours of the method behind the table's columns, of which `saliency` is a map."""
    return ColourScale.of_table(
        scene.lesions,
        saliency.channels,
        voxel_mm3=voxel_volume_mm3(scene.affine),
        derivative=is_derivative(saliency.provenance),
    )


def _lesion(
    scene: ScanView,
    frame: Frame,
    plan: PackingPlan,
    store: Store,
    limits: _Limits,
    row: Mapping[Any, Any],
    anatomy: HeadAnatomy | None,
    reference: ReferenceLesions | None,
) -> dict[str, Any]:
    label = int(row["lesion"])
    voxels = scene.voxels(label)
    main = scene.descs[0] if scene.descs else ""
    verdict = Verdict.of(row, None if scene.triage is None else scene.triage.features)
    drawn = None if reference is None or row.get("outcome") not in ("TP", "US") else reference.met_by(voxels, row)
    found: dict[str, Any] = {
        "label": label,
        "voxels": len(voxels),
        "row": {str(key): _plain(value) for key, value in row.items()},
        "headline": headline(row, drawn),
        "facts": "",
        "beside": {},
        "triage": None if verdict is None else vars(verdict),
        "maps": {},
    }
    if not len(voxels):
        return found | {
            "place": None,
            "sentences": ["This lesion has no voxels in the label image."],
            "why": "",
            "warnings": [],
        }
    start = np.asarray(frame.box.start)
    centre = voxels[np.linalg.norm((voxels - voxels.mean(axis=0)) * scene.voxel_sizes_mm, axis=1).argmin()]
    found["place"] = [int(v) for v in centre - start]
    found["extent_mm"] = [float(v) for v in (np.ptp(voxels, axis=0) + 1) * scene.voxel_sizes_mm]
    touches = bool((voxels == 0).any() or (voxels == np.asarray(scene.shape) - 1).any())
    around = Neighbourhood.of(scene, label)
    if anatomy is not None:
        facts = anatomy.facts(around, voxels)
        found["facts"] = place(facts.side, facts.place, facts.contrast_sd)
    said: list[str] = []
    for desc in scene.descs:
        saliency = scene.saliency(label, desc)
        if saliency is None:
            continue
        limits.add(desc, saliency, len(voxels))
        found["maps"][desc] = _map(scene, frame, plan, store, around, saliency, label, desc)
        if desc == main:
            said = _said(saliency, around, row, scene.lesions)
            found["viewers"] = _commands(scene, label, main, row, saliency)
    found["sentences"] = said or [NO_MAP]
    found["why"] = why_words(scene.why, label, scene.channels)
    channels = scene.saliency_channels
    found["beside"] = {
        f"{measure}_{channel}": vars(other)
        for measure in ("effect_in", "effect_rim")
        for channel in channels
        if (other := beside(scene.lesions, row, channel, measure)) is not None
    }
    found["warnings"] = warnings(row, channels, touches_edge=touches)
    if main in found["maps"] and "values" not in found["maps"][main]:
        found["warnings"].append("Its map is too large for this page: open the folder with `lesionwise serve`.")
    return found


def _said(saliency: SaliencyMap, around: Neighbourhood, row: Mapping[Any, Any], lesions: pd.DataFrame) -> list[str]:
    """What the first method's map says of a lesion."""
    if not saliency.provenance.get("Quantitative", True):
        top = float(np.abs(saliency.data).max(initial=0))
        return [unmeasured(method_words(str(saliency.provenance.get("Method", ""))), top)]
    pushes = pushes_of(saliency, around, row, lesions)
    return sentences(row, pushes, units=saliency.units) or [per_voxel(saliency.units)]


def _map(
    scene: ScanView,
    frame: Frame,
    plan: PackingPlan,
    store: Store,
    around: Neighbourhood,
    saliency: SaliencyMap,
    label: int,
    desc: str,
) -> dict[str, Any]:
    """One lesion's map by one method, as the page's scripts know it."""
    start = np.asarray(frame.box.start)
    meta: dict[str, Any] = {"channels": list(saliency.channels)}
    if label in plan.labels:
        meta, blobs = map_blobs(scene, frame, saliency, label, margin_mm=plan.margin_mm, dtype=plan.dtype)
        meta |= {what: store.put(f"map-{label}-{desc}-{what}", blob) for what, blob in blobs.items()}
    meta["profile"] = distance_profile(around, saliency, step_mm=max(1.0, min(scene.voxel_sizes_mm)))
    meta["extremes"] = {channel: extremes(around, saliency, channel) for channel in saliency.channels}
    for each in meta["extremes"].values():
        for end in each.values():
            end["voxel"] = [int(v) for v in np.asarray(end["voxel"]) - start]
    return meta


def _likely_misses(scene: ScanView, frame: Frame) -> list[dict[str, Any]]:
    """Where a lesion may have been missed, for the page's list; `voxel` is one of the frame, None outside the scan."""
    found = []
    sizes = scene.voxel_sizes_mm
    for miss in scene.likely_misses:
        each: dict[str, Any] = {
            "rank": miss.rank,
            "mm": list(miss.mm) if scene.sided else None,
            "words": candidate(miss.row, scene.channels),
            "outcome": miss.outcome,
            "voxel": None,
            "side": "",
            "lesion": None,
            "radius_mm": (0.75 * miss.volume_mm3 / np.pi) ** (1 / 3),
        }
        if miss.voxel is not None:
            voxel = [int(a - b) for a, b in zip(miss.voxel, frame.box.start, strict=True)]
            across = (voxel[0] - (frame.box.shape[0] - 1) / 2) * sizes[0]
            side = ("right" if across > 0 else "left") if scene.sided else ""
            label = int(scene.labels[miss.voxel])
            each |= {
                "voxel": voxel,
                "side": side if not scene.sided or abs(across) >= MIDLINE_MM else "near the midline",
                "lesion": label or None,
            }
        found.append(each)
    return found


def _commands(scene: ScanView, label: int, desc: str, row: Mapping[Any, Any], saliency: SaliencyMap) -> dict[str, str]:
    """Command lines for other viewers that name files only: a page says nothing about where its folder lies."""
    files = scene.files
    shown = Layers(
        {channel: Path(f"{channel}.nii.gz") for channel in scene.channels},
        Path(files.labels.name),
        Path(files.saliency(label, desc).name),
        saliency.channels,
        1.0 if (scale := colour_scale(scene, saliency)) is None else scale.at(len(scene.voxels(label))),
        scene.place_mm(label),
    )
    others = f"lesionwise figure OUT --scan {scene.name.stem} --lesion {label} --viewers FOLDER"
    return {"FSLeyes": fsleyes_command(shown), "Others": others}


def _cohort(cohort: pd.DataFrame | None, channels: tuple[str, ...], *, most: int = 2000) -> dict[str, Any] | None:
    """Values of all scans' lesions for the distribution strips, by metric and outcome; thinned evenly by rank."""
    if cohort is None or cohort.empty:
        return None
    metrics = ["volume_mm3", "probability_mean", *(f"effect_in_{channel}" for channel in channels)]
    found: dict[str, Any] = {}
    for metric in metrics:
        if metric not in cohort:
            continue
        by_outcome = {}
        for outcome, values in cohort.groupby(cohort["outcome"].fillna("n/a"))[metric]:
            ordered = np.sort(pd.to_numeric(values, errors="coerce").dropna().to_numpy())
            if ordered.size > most:
                ordered = ordered[np.linspace(0, ordered.size - 1, most).astype(int)]
            by_outcome[str(outcome)] = [float(f"{value:.4g}") for value in ordered]
        found[metric] = by_outcome
    return found


def _plain(value: Any) -> Any:
    if value is None or value is pd.NA:
        return None
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return finite({"value": float(value)}, "value")
    return str(value)
