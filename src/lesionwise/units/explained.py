"""A scan with its lesions explained, in memory, and its table."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from lesionwise import lesion_table
from lesionwise.geometry.affine import voxel_sizes_mm
from lesionwise.geometry.box import Box
from lesionwise.geometry.volume import Case
from lesionwise.instances.instance import Instance, instances_to_labels
from lesionwise.measures import SHELLS_MM, map_measures
from lesionwise.saliency import SaliencyMap
from lesionwise.units.settings import Settings


@dataclass(frozen=True, eq=False)
class Explained:
    """A scan with its lesions explained, in memory.

    `map_channels` names the maps' channels: one for all inputs (class activation maps), or () for the model's.
    """

    case: Case
    settings: Settings
    model: Mapping[str, Any]
    prediction: np.ndarray
    mask: np.ndarray
    instances: tuple[Instance, ...]
    maps: Mapping[int, SaliencyMap]
    lesions: pd.DataFrame
    columns: Mapping[str, Any]
    map_channels: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    keys: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def labels(self) -> np.ndarray:
        """Instance numbers (i, j, k)."""
        return instances_to_labels(self.instances, self.case.image.shape)


def tabulate(explained: Explained) -> pd.DataFrame:
    """One row per instance, in the order of their numbers; map columns are missing for those not explained."""
    channels = explained.map_channels or tuple(explained.model["Channels"])
    rows = [_row(explained, instance, channels) for instance in explained.instances]
    table = pd.DataFrame(rows, columns=lesion_table.columns(channels))
    table["n_samples"] = table["n_samples"].astype("Int64")
    table["converged"] = table["converged"].astype("boolean")
    return table


def _row(explained: Explained, instance: Instance, channels: tuple[str, ...]) -> dict[str, Any]:
    inside = explained.prediction[instance.index]
    row: dict[str, Any] = {
        "lesion": instance.label,
        "outcome": instance.outcome,
        "volume_mm3": instance.volume_mm3,
        **dict(
            zip(("x_mm", "y_mm", "z_mm"), instance.centroid_mm if explained.case.sided else (None,) * 3, strict=True)
        ),
        "probability_mean": float(inside.mean(dtype=float)),
        "probability_max": float(inside.max()),
        "iou": instance.iou if instance.outcome is not None else None,
        "reference_lesions": ",".join(map(str, instance.reference_lesions)) or None,
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
    row.update(
        map_measures(
            data,
            box,
            instance.voxels,
            others=(labels != 0) & (labels != instance.label),
            sizes_mm=sizes,
            channels=channels,
            derivative=explained.settings.method.is_derivative,
        )
    )
    # What the draws know goes before what the kept map says: it may be rounded, and cut off near the lesion.
    row.update(saliency.provenance["Statistics"])
    return row
