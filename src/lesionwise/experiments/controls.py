"""Control regions (TN): where lesions' shapes found a place in healthy white matter, and where none fits (METHOD section 1)."""

from typing import Any

import numpy as np
import pandas as pd

from lesionwise.asking.scan import Scan
from lesionwise.charts.chart import Chart, Panel, Violin
from lesionwise.errors import InputError
from lesionwise.experiments.experiment import Experiment, Finding, keyed, lesions_of, patients_note
from lesionwise.instances.controls import place_controls
from lesionwise.instances.tissue import white_matter

MARGIN_MM = 10.0
DEPTH_TOLERANCE_MM = 1.0


def controls_rows(
    scan: Scan, *, margin_mm: float = MARGIN_MM, depth_tolerance_mm: float = DEPTH_TOLERANCE_MM
) -> pd.DataFrame:
    """One row per control region asked for (`--controls`), those that could not be placed included (`placed` False, `note`).

    Places are drawn as everywhere (same seed, same rules): the shape of `template`, wholly in white matter, `depth_mm` within
    the tolerance of `template_depth_mm` (mean distance of the voxels to the border of white matter), `lesion_distance_mm` to
    the nearest predicted or reference lesion above the margin. `tissue_source` says where the white matter is from (given:
    a segmentation; mixture: three classes of T1w; none: neither, so that nothing is placed) and `white_matter_ml` how much
    there is. `probability_mean`, `probability_max`: what the network says there; a control that it calls a lesion is none.
    """
    settings, case = scan.explained.settings, scan.case
    lesions = [one for one in scan.instances if one.source != "control"]
    asked = settings.controls
    if not asked or not lesions:
        return keyed(scan, [])
    try:
        healthy = white_matter(case, seed=settings.seed)
    except InputError as error:
        nothing = {"outcome": "TN", "placed": False, "tissue_source": "none", "note": str(error)}
        return keyed(scan, [{"lesion": np.nan, **nothing} for _ in range(asked)])
    avoid = scan.explained.mask.astype(bool)
    placed = place_controls(
        lesions,
        white_matter=healthy.mask,
        avoid=avoid if case.reference is None else avoid | case.reference,
        rng=np.random.default_rng(settings.seed),
        n=asked,
        margin_mm=margin_mm,
        depth_tolerance_mm=depth_tolerance_mm,
    )
    facts = {
        "outcome": "TN",
        "tissue_source": healthy.source,
        "tissue_note": healthy.note,
        "white_matter_ml": float(healthy.mask.sum() * np.prod(scan.sizes_mm) / 1000.0),
    }
    rows: list[dict[str, Any]] = []
    for control in placed.controls:
        there = scan.explained.prediction[control.instance.index].astype(float)
        rows.append(
            {
                "lesion": control.instance.label,
                **facts,
                "placed": True,
                "template": control.template,
                "volume_mm3": control.instance.volume_mm3,
                "depth_mm": control.depth_mm,
                "template_depth_mm": control.template_depth_mm,
                "lesion_distance_mm": control.lesion_distance_mm,
                "probability_mean": float(there.mean()),
                "probability_max": float(there.max()),
                "note": "",
            }
        )
    rows += [{"lesion": np.nan, **facts, "placed": False, "note": sentence} for sentence in placed.failures]
    return keyed(scan, rows)


def controls_finding(rows: pd.DataFrame, rng: np.random.Generator) -> Finding:
    """How many were placed, how well they match, where the tissue is from."""
    if not len(rows):
        return Finding(
            "No control regions were asked for (--controls), or no lesion was found whose shape could be placed."
        )
    placed = rows[rows["placed"].astype(bool)]
    sources = rows.groupby("tissue_source")["scan"].nunique()
    words = {"given": "a given segmentation", "mixture": "three classes of T1w", "none": "nowhere (nothing was placed)"}
    sentences = [
        f"{patients_note(rows.drop(columns='lesion'))}, {len(placed)} of {len(rows)} control regions placed.",
        "White matter is from "
        + ", ".join(
            f"{words.get(str(name), name)} in {count} scan{'s' * (count != 1)}" for name, count in sources.items()
        )
        + ".",
    ]
    if len(placed) < len(rows):
        sentences.append(
            f"{len(rows) - len(placed)} found no place that fits in size, tissue, depth and distance to lesions, and were left "
            "out, not forced (see the table's notes)."
        )
    panels = []
    if len(placed):
        gap = (placed["depth_mm"] - placed["template_depth_mm"]).abs()
        sentences.append(
            f"Depth differs from the lesion's by {gap.median():.2f} mm (median; at most {gap.max():.2f}); the nearest lesion is "
            f"{placed['lesion_distance_mm'].min():.1f} mm away or more; the network's mean probability there is "
            f"{placed['probability_mean'].mean():.3f}."
        )
        for column, values, label in (
            ("depth", gap, "difference in depth (mm)"),
            ("distance", placed["lesion_distance_mm"], "distance to the nearest lesion (mm)"),
            ("answer", placed["probability_max"], "largest probability in the region"),
        ):
            finite = values.replace(np.inf, np.nan).to_numpy(dtype=float)
            panels.append(Panel(column, "", label, [Violin("controls", finite, "#009E73", lesions_of(placed))]))
    chart = Chart(
        "controls",
        "Do the control regions match the lesions?",
        panels,
        "Each point is a lesion's shape in healthy white matter.",
        sample=f"{rows['subject'].nunique()} patients, {len(placed)} of {len(rows)} regions placed",
    )
    keys = ["subject", "scan", "tissue_source"]
    table = rows.assign(placed=rows["placed"].astype(bool)).groupby(keys)["placed"].agg(asked="size", placed="sum")
    return Finding(" ".join(sentences), (chart,) if panels else (), {"controls": table.reset_index()})


EXPERIMENT = Experiment(
    name="controls",
    question="Where do control regions lie, and how well do they match?",
    rows_fn=controls_rows,
    group_fn=controls_finding,
    defaults={"margin_mm": MARGIN_MM, "depth_tolerance_mm": DEPTH_TOLERANCE_MM},
)
