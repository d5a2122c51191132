"""A result in Jupyter: a short table of its own, and one lesion in an interactive viewer."""

from html import escape
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np

from lesionwise.charts.palette import outcome_style
from lesionwise.errors import InputError, MissingExtraError
from lesionwise.report.limits import colour_limit, table_tops
from lesionwise.report.narrative import number, sentence
from lesionwise.report.viewers import nifti_bytes

MOST_ROWS = 30


def result_html(result: Any) -> str:
    """What `result` shows of itself: counts, and per lesion its outcome, size and sentence. Everything is escaped."""
    lesions = result.lesions
    channels = result.case.image.channels
    units = next((saliency.units for saliency in result.maps.values()), "")
    counts = ", ".join(f"{count} {escape(key)}" for key, count in result.counts.items()) or "no lesion"
    rows = []
    for row in lesions.head(MOST_ROWS).to_dict("records"):
        style = outcome_style(row["outcome"] if isinstance(row["outcome"], str) else None)
        said = sentence(row, channels, units=units) if int(row["lesion"]) in result.maps else "not explained"
        rows.append(
            f"<tr><td>{int(row['lesion'])}</td><td><span style='background:{style.colour};color:{style.ink};border-radius:4px;"
            f"padding:0 6px;font-weight:600' title='{escape(style.meaning)}'>{escape(str(row['outcome'] or '–'))}</span></td>"
            f"<td style='text-align:right'>{number(row['volume_mm3'])}</td><td style='text-align:left'>{escape(said)}</td></tr>"
        )
    more = len(lesions) - len(rows)
    return (
        f"<div><strong>{escape(result.case.name.stem)}</strong>: {counts}; {len(result.maps)} explained."
        "<table><thead><tr><th>lesion</th><th>outcome</th><th>mm³</th><th style='text-align:left'>what drove it</th></tr>"
        f"</thead><tbody>{''.join(rows)}</tbody></table>"
        + (f"<p>and {more} more: <code>result.lesions</code></p>" if more > 0 else "")
        + "<p>Research use only, not a medical device. <code>result.view(lesion)</code> shows one.</p></div>"
    )


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
    limit = colour_limit(table_tops(result.lesions, saliency.channels))
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
