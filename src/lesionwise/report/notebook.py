"""A result in Jupyter: a short table of its own, and one lesion in an interactive viewer."""

import base64
import io
from collections.abc import Mapping
from html import escape
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from lesionwise.charts.palette import outcome_style, signed_rgba
from lesionwise.errors import InputError, MissingExtraError
from lesionwise.geometry.affine import voxel_sizes_mm, voxel_volume_mm3
from lesionwise.report.anatomy import display_window
from lesionwise.report.limits import ColourScale
from lesionwise.report.narrative import number, per_voxel, signed, unmeasured
from lesionwise.report.pushes import is_derivative
from lesionwise.report.scene import Turn
from lesionwise.report.settings import method_words
from lesionwise.report.told import finite
from lesionwise.report.viewers import nifti_bytes
from lesionwise.saliency import SaliencyMap
from lesionwise.types import Affine, Millimetres

MOST_ROWS = 30


def result_html(result: Any) -> str:
    """What `result` shows of itself: a thumbnail and paragraph of one lesion, then per lesion outcome, size and effects.

    Everything is escaped.
    """
    lesions = result.lesions
    saliency = next(iter(result.maps.values()), None)
    channels = result.case.image.channels if saliency is None else saliency.channels
    counts = ", ".join(f"{count} {escape(key)}" for key, count in result.counts.items()) or "no lesion"
    effects = [channel for channel in channels if f"effect_in_{channel}" in lesions]
    rows = []
    for row in lesions.head(MOST_ROWS).to_dict("records"):
        style = outcome_style(row["outcome"] if isinstance(row["outcome"], str) else None)
        mapped = int(row["lesion"]) in result.maps
        cells = "".join(f"<td style='text-align:right'>{_effect(row, channel)}</td>" for channel in effects)
        said = "" if mapped else "<td style='text-align:left'>not explained</td>"
        rows.append(
            f"<tr><td>{int(row['lesion'])}</td><td><span style='background:{style.colour};color:{style.ink};border-radius:4px;"
            f"padding:0 6px;font-weight:600' title='{escape(style.meaning)}'>{escape(str(row['outcome'] or '–'))}</span></td>"
            f"<td style='text-align:right'>{number(row['volume_mm3'])}</td>{cells}{said}</tr>"
        )
    more = len(lesions) - len(rows)
    heads = "".join(f"<th>effect of {escape(channel)}</th>" for channel in effects)
    told = _paragraph(result, saliency)
    return (
        f"<div><p><strong>{escape(result.case.name.stem)}</strong>: {counts}; {len(result.maps)} explained.</p>{told}"
        f"<table><thead><tr><th>lesion</th><th>outcome</th><th>mm³</th>{heads}</tr>"
        f"</thead><tbody>{''.join(rows)}</tbody></table>"
        + (f"<p>and {more} more: <code>result.lesions</code></p>" if more > 0 else "")
        + "<p>Research use only, not a medical device. <code>result.view(lesion)</code> shows one.</p></div>"
    )


def _effect(row: Mapping[Any, Any], channel: str) -> str:
    value = finite(row, f"effect_in_{channel}")
    return "n/a" if value is None else escape(signed(value, finite(row, f"effect_in_se_{channel}")))


def _paragraph(result: Any, saliency: SaliencyMap | None) -> str:
    """The lesion of the strongest effect, as a small picture and what its brightness does."""
    if saliency is None:
        return ""
    if not saliency.provenance.get("Quantitative", True):
        return f"<p>{escape(unmeasured(method_words(str(saliency.provenance.get('Method', ''))), None))}</p>"
    columns = [c for channel in saliency.channels if (c := f"effect_in_{channel}") in result.lesions]
    mapped = result.lesions[result.lesions["lesion"].isin(list(result.maps))]
    lesions = mapped[mapped["outcome"] != "TN"]
    mapped = lesions if len(lesions) else mapped
    strength = (
        mapped[columns].apply(pd.to_numeric, errors="coerce").abs().max(axis=1) if columns else pd.Series(dtype=float)
    )
    if not strength.notna().any():
        return f"<p>{escape(per_voxel(saliency.units))}</p>"
    row = mapped.loc[strength.idxmax()].to_dict()
    target = saliency.units.split(" per ")[0]
    effects = "; ".join(f"{channel} by {_effect(row, channel)}" for channel in saliency.channels)
    label = int(row["lesion"])
    return (
        f"<p><img alt='Lesion {label} and its map' style='float:left;margin:0 10px 6px 0' src='{_thumbnail(result, label)}'>"
        f"Lesion {label} has the strongest effect: one SD brighter throughout it moves its {escape(target)}: {effects}.</p>"
    )


def _thumbnail(result: Any, label: int) -> str:
    """The axial slice through a lesion's middle with its map, 40 mm wide, as a data address of a PNG."""
    saliency, image = result.maps[label], result.case.image
    voxels = np.argwhere(result.explained.labels == label)
    scale = ColourScale.of_table(
        result.lesions,
        saliency.channels,
        voxel_mm3=voxel_volume_mm3(image.affine),
        derivative=is_derivative(saliency.provenance),
    )
    turn = Turn.of(image.affine, image.shape)
    picture = turn.array(
        image.channel(saliency.channels[0] if saliency.channels[0] in image.channels else image.channels[0])
    )
    whole = turn.array(saliency.on_grid(image.shape)[0])
    inside = turn.array(result.explained.labels == label)
    i, j, k = (int(v) for v in np.argwhere(inside).mean(axis=0).round())
    low, high = display_window(picture, turned_sizes(turn, image.affine))
    grey = np.clip((picture[:, :, k] - low) / (high - low), 0, 1)[..., None].repeat(3, axis=-1)
    limit = 1.0 if scale is None else scale.at(len(voxels))
    rgba = signed_rgba(whole[:, :, k].astype(float), limit=limit)
    shown = grey * (1 - rgba[..., 3:]) + rgba[..., :3] * rgba[..., 3:]
    half = max(int(20 / min(turned_sizes(turn, image.affine))), 8)
    cut = shown[max(i - half, 0) : i + half, max(j - half, 0) : j + half]
    # Radiological: the patient's right on the left of the picture, anterior at the top.
    upright = np.flip(cut.swapaxes(0, 1), axis=(0, 1))
    buffer = io.BytesIO()
    Image.fromarray(np.round(255 * upright).astype(np.uint8)).resize((140, 140)).save(buffer, format="png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def turned_sizes(turn: Turn, affine: Affine) -> Millimetres:
    """Voxel sizes after the turn."""
    sizes = voxel_sizes_mm(affine)
    return sizes[turn.order[0]], sizes[turn.order[1]], sizes[turn.order[2]]


def view(result: Any, lesion: int, *, channel: str | None = None) -> Any:
    """A NiiVue widget: the channel's image, the lesion's signed map over it in the page's limits, its outline.

    Raises InputError if the lesion has no map, MissingExtraError without the extra `notebook`.
    """
    if lesion not in result.maps:
        explained = ", ".join(str(label) for label in sorted(result.maps)) or "none"
        raise InputError(f"Expected one of the explained lesions ({explained}), found {lesion}.")
    if find_spec("ipyniivue") is None:
        raise MissingExtraError.of("ipyniivue", extra="notebook", purpose="result.view")
    ipyniivue = import_module("ipyniivue")
    saliency, image = result.maps[lesion], result.case.image
    chosen = channel or saliency.channels[0]
    if chosen not in saliency.channels:
        raise InputError(f"Expected a channel of {', '.join(saliency.channels)}, found {chosen}.")
    found = ColourScale.of_table(
        result.lesions,
        saliency.channels,
        voxel_mm3=voxel_volume_mm3(image.affine),
        derivative=is_derivative(saliency.provenance),
    )
    limit = 1.0 if found is None else found.at(int((result.explained.labels == lesion).sum()))
    scale = {
        "colormap": "warm",
        "colormap_negative": "winter",
        "cal_min": 0.05 * limit,
        "cal_max": limit,
        "opacity": 0.8,
    }
    volumes = [
        {"data": nifti_bytes(image.channel(chosen), image.affine), "name": f"{chosen}.nii.gz", "colormap": "gray"},
        {
            "data": nifti_bytes(saliency.channel(chosen), saliency.affine),
            "name": f"map of {chosen}.nii.gz",
            **scale,
        },
    ]
    widget = ipyniivue.NiiVue()
    widget.load_volumes(volumes)
    voxels = result.explained.labels == lesion
    where = np.argwhere(voxels).mean(axis=0) if voxels.any() else np.asarray(image.shape) / 2
    widget.scene.crosshair_pos = [float((v + 0.5) / n) for v, n in zip(where, image.shape, strict=True)]
    return widget
