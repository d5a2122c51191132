"""Can painted healthy tissue be told from real one? Every counterfactual is as good as the tissue painted in its place."""

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy import ndimage
from torch import Tensor

from lesionwise.asking.probe import Probe
from lesionwise.asking.scan import Scan
from lesionwise.charts.chart import Bar, Chart, Panel
from lesionwise.charts.palette import series_colour
from lesionwise.experiments.experiment import Experiment, Finding, keyed, patients_note
from lesionwise.geometry.box import Box, triple
from lesionwise.stats import Interval, auc, auc_interval
from lesionwise.types import MaskArray

Fill = Literal["painted", "smooth", "flat"]
FILLS: tuple[Fill, ...] = ("painted", "smooth", "flat")
"""What the counterfactuals use; the same without texture; one value per channel. The last two must be found out."""
TOLD = 0.6
"""AUC up to which painted tissue counts as not told apart."""
RING_VOX = 3
FEWEST_VOX = 8
"""Voxels, in the region and around it, below which there is no texture to speak of."""
FOLDS = 5
TREES = 200
MIN_PATIENTS = 2


def fill_rows(scan: Scan, *, fills: Sequence[Fill] = FILLS) -> pd.DataFrame:
    """For every control region (`--controls`) one row as it is and one for each way to fill it.

    A control is a lesion's shape in healthy white matter at the lesion's depth, so that the truth under the fill is known.
    Region and `RING_VOX` voxels around are compared on the network's grid, as the network sees them; once as they are, once
    their white matter alone, since a region that is as wide as a lesion with its blurred rim takes other tissue along.
    Columns: `fill` ("real" or a way), `part` ("region" or "white matter"), `size_vox`, `lesion` (the control's number), and
    the features of `texture`.
    """
    rows: list[dict[str, Any]] = []
    for instance in scan.instances:
        if instance.outcome != "TN":
            continue
        probe = scan.probe(instance)
        mask = ndimage.binary_dilation(probe.lesion())  # the fill takes a lesion's blurred rim along
        ring = ndimage.binary_dilation(mask, iterations=RING_VOX) & ~mask & probe.head
        box = Box.around(np.argwhere(mask | ring), margin=0, shape=triple(mask.shape))
        here = (slice(None), *box.slices)
        facts = {"lesion": instance.label, "outcome": "TN", "size_vox": int(mask.sum())}
        masks = {part: (mask & of, ring & of) for part, of in (("region", True), ("white matter", probe.healthy))}
        for name, image in [("real", probe.base), *_filled(scan, probe, instance.label, mask, ring, fills)]:
            values = image[here].cpu().numpy().astype(np.float64)
            for part, (inside, around) in masks.items():
                if min(inside.sum(), around.sum()) >= FEWEST_VOX:
                    found = texture(values, inside[box.slices], around[box.slices], channels=scan.channels)
                    rows.append({**facts, "fill": name, "part": part, **found})
    return keyed(scan, rows)


def _filled(
    scan: Scan, probe: Probe, label: int, mask: MaskArray, ring: MaskArray, fills: Sequence[Fill]
) -> Iterator[tuple[Fill, Tensor]]:
    for fill in fills:
        if fill == "flat":
            flat = probe.base.clone()
            flat[:, mask] = probe.base[:, ring].mean(dim=1, keepdim=True)
            yield fill, flat
        else:
            rng = scan.rng(label) if fill == "painted" else None
            yield fill, probe.inpainted(mask, rng=rng, grow_vox=0)


def texture(values: np.ndarray, inside: MaskArray, ring: MaskArray, *, channels: Sequence[str]) -> dict[str, float]:
    """What could give a fill away: features of a region against the ring around it.

    `values` is (channels, i, j, k). Per channel, in SD of the ring or as the logarithm of a ratio to the ring: mean, spread,
    skewness, kurtosis, extremes, mean step between neighbours along each axis, curvature (Laplacian), step across the
    border; and how much the correlation of two channels differs.
    """
    found: dict[str, float] = {}
    for name, channel in zip(channels, values, strict=True):
        own, around = channel[inside], channel[ring]
        sd = around.std() + 1e-9
        curved = ndimage.laplace(channel)
        found |= {
            f"{name}_mean": float((own.mean() - around.mean()) / sd),
            f"{name}_spread": _log_ratio(own.std(), sd),
            f"{name}_skewness": _moment(own, 3) - _moment(around, 3),
            f"{name}_kurtosis": _moment(own, 4) - _moment(around, 4),
            f"{name}_lowest": float((own.min() - around.mean()) / sd),
            f"{name}_highest": float((own.max() - around.mean()) / sd),
            f"{name}_curvature": _log_ratio(np.abs(curved[inside]).mean(), np.abs(curved[ring]).mean()),
        }
        across: list[np.ndarray] = []
        for axis in range(3):
            step = np.abs(np.diff(channel, axis=axis))
            first, second = (np.moveaxis(mask, axis, 0) for mask in (inside, ring))
            steps = np.moveaxis(step, axis, 0)
            within, outside = steps[first[1:] & first[:-1]], steps[second[1:] & second[:-1]]
            across.append(steps[(first[1:] & second[:-1]) | (second[1:] & first[:-1])])
            pair = _log_ratio(within.mean(), outside.mean()) if len(within) and len(outside) else 0.0
            found[f"{name}_step_{'ijk'[axis]}"] = pair
        border = np.concatenate(across)
        found[f"{name}_border"] = float(border.mean() / sd) if len(border) else 0.0
    for (first_name, first), (second_name, second) in combinations(zip(channels, values, strict=True), 2):
        apart = _correlation(first[inside], second[inside]) - _correlation(first[ring], second[ring])
        found[f"{first_name}_{second_name}_agreement"] = apart
    return found


def fill_finding(rows: pd.DataFrame, rng: np.random.Generator) -> Finding:
    """How well a classifier that has not seen a patient tells his filled regions from real ones."""
    if not len(rows):
        return Finding("No control region was placed. Ask for them with --controls.")
    features = [name for name in rows if name.endswith(_ENDINGS)]
    rows = rows if "part" in rows else rows.assign(part="region")
    real = rows[(rows["fill"] == "real") & (rows["part"] == "region")]
    if real["subject"].nunique() < MIN_PATIENTS:
        return Finding(f"{patients_note(real)}: at least {MIN_PATIENTS} patients are needed to learn on others.")
    table, bars = [], []
    asked = [(fill, "region") for fill in dict.fromkeys(rows["fill"]) if fill != "real"]
    if "white matter" in set(rows["part"]):
        asked.insert(1, (asked[0][0], "white matter"))
    for number, (fill, part) in enumerate(asked):
        own = rows[(rows["part"] == part) & rows["fill"].isin(["real", fill])].reset_index(drop=True)
        own["score"] = _unseen(own, features, seed=int(rng.integers(2**31)))
        found = _told_apart(own)
        name = fill if part == "region" else f"{fill}, {part} alone"
        bars.append(Bar(name, found.estimate, found.low, found.high, series_colour(number)))
        table.append(
            {
                "fill": fill,
                "part": part,
                "regions": int((own["fill"] == fill).sum()),
                "patients": own["subject"].nunique(),
                "auc": found.estimate,
                "auc_low": found.low,
                "auc_high": found.high,
                "most_telling": _most_telling(own, features),
            }
        )
    sentences = [f"{patients_note(real)} (healthy regions of lesions' shapes)."]
    for row, bar in zip(table, bars, strict=True):
        one = Interval(bar.value, bar.low, bar.high, int(row["patients"]))
        ending = "not told apart" if bar.value <= TOLD else f"told apart, most by {row['most_telling']}"
        where = "" if row["part"] == "region" else f" ({row['part']} alone)"
        sentences.append(f"{str(row['fill']).capitalize()} tissue against real tissue{where}: AUC {one}, {ending}.")
    chart = Chart(
        "fills",
        "Can painted tissue be told from real tissue?",
        (Panel("AUC, patients not seen", "0.5: not at all", "", bars, horizontal=True),),
        f"Trees on features of texture, {FOLDS} folds of patients. Painted: what counterfactuals use; smooth: the same without "
        "texture; flat: one value. A region takes a lesion's blurred rim along, and other tissue with it; its white matter alone "
        "is what is painted. Lines: 95 % over patients (six or more).",
        sample=patients_note(real),
    )
    return Finding(" ".join(sentences), (chart,), {"fills": pd.DataFrame(table)})


def _unseen(rows: pd.DataFrame, features: list[str], *, seed: int) -> np.ndarray:
    """Probability of being filled, by trees that learnt on other patients."""
    from sklearn.ensemble import ExtraTreesClassifier
    from sklearn.model_selection import GroupKFold, cross_val_predict

    trees = ExtraTreesClassifier(TREES, min_samples_leaf=3, random_state=seed)
    folds = GroupKFold(min(FOLDS, rows["subject"].nunique()))
    is_filled = (rows["fill"] != "real").to_numpy()
    scores: np.ndarray = cross_val_predict(
        trees, rows[features].to_numpy(), is_filled, groups=rows["subject"], cv=folds, method="predict_proba"
    )
    return scores[:, 1]


def _told_apart(rows: pd.DataFrame) -> Interval:
    filled, real = rows[rows["fill"] != "real"], rows[rows["fill"] == "real"]
    return auc_interval(
        filled["score"].to_numpy(),
        real["score"].to_numpy(),
        first_patients=filled["subject"].to_numpy(dtype=str),
        second_patients=real["subject"].to_numpy(dtype=str),
    )


def _most_telling(rows: pd.DataFrame, features: list[str]) -> str:
    """The feature whose own AUC is farthest from a half."""
    filled, real = rows[rows["fill"] != "real"], rows[rows["fill"] == "real"]
    wins = {name: auc(filled[name].to_numpy(dtype=float), real[name].to_numpy(dtype=float)) for name in features}
    return max(wins, key=lambda name: abs(wins[name] - 0.5))


_ENDINGS = (
    "_mean", "_spread", "_skewness", "_kurtosis", "_lowest", "_highest", "_curvature", "_step_i", "_step_j", "_step_k", "_border",
    "_agreement",
)  # fmt: skip


def _log_ratio(value: float, other: float) -> float:
    return float(np.log((value + 1e-9) / (other + 1e-9)))


def _moment(values: np.ndarray, order: int) -> float:
    """Standardised moment; 0 for values that do not differ."""
    sd = values.std()
    return float((((values - values.mean()) / sd) ** order).mean()) if sd > 1e-6 else 0.0


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    if len(first) < 3 or min(first.std(), second.std()) < 1e-6:
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])


EXPERIMENT = Experiment(
    name="fills",
    question="Can painted healthy tissue be told from real tissue?",
    rows_fn=fill_rows,
    group_fn=fill_finding,
    defaults={"fills": FILLS},
)
