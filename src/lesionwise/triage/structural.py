"""Structural uncertainty of a lesion: how differently the members of an ensemble draw it (Molchanova2025).

The baseline that readers of the MS literature expect beside any other score of error: 1 - mean over members of the IoU of the
lesion with the component of the member's own mask that fits it best. 0: every member draws the same; 1: no other member finds it.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from lesionwise.asking.probe import Probe
from lesionwise.asking.variants import networks_alone
from lesionwise.geometry.box import Box
from lesionwise.instances.components import label_components
from lesionwise.triage.features import Feature
from lesionwise.triage.probing import Questions
from lesionwise.types import MaskArray
from lesionwise.windows import probability

STRUCTURAL: tuple[Feature, ...] = (
    Feature("structural_uncertainty", "structural", "the ensemble", "how differently the ensemble's members draw it"),
)
"""1 - mean IoU over the members of an ensemble or the folds of a model; nan for a single network."""

MARGIN_MM = 5.0
"""How far around the lesion a member's own component is followed; what is larger still counts as that large."""


def features(channels: Sequence[str]) -> list[Feature]:
    """The feature of the family structural, the same for all channels; it asks every member of the network."""
    return list(STRUCTURAL)


def structural_uncertainty(questions: Questions, label: int) -> float:
    """1 - mean IoU of the lesion over members, 0 to 1; nan for a model of one network.

    Members are those of an ensemble that averages probabilities, or the folds and mirrors of one that averages logits.
    """
    scan, model = questions.scan, questions.model
    alone = networks_alone(model.network)
    if max(model.spec.members, len(alone)) < 2:
        return float("nan")
    voxels = scan.voxels(label)
    low, high = voxels.min(axis=0), voxels.max(axis=0) + 1
    margin = np.ceil(MARGIN_MM / np.asarray(scan.sizes_mm)).astype(int)
    start, stop = np.maximum(low - margin, 0), np.minimum(high + margin, scan.labels.shape)
    box = Box((int(start[0]), int(start[1]), int(start[2])), (int(stop[0]), int(stop[1]), int(stop[2])))
    around = np.argwhere(np.ones(box.shape, dtype=bool)) + start
    probe = Probe.of(model, questions.placement, [around], healthy=questions.healthy, one_window=True)
    if not probe.windows:
        return float("nan")
    lesion = scan.labels[box.slices] == label
    masks = (found.reshape(box.shape) > scan.threshold for found in _members(probe, alone))
    return 1.0 - float(np.mean([best_iou(lesion, mask) for mask in masks]))


def best_iou(lesion: MaskArray, mask: MaskArray) -> float:
    """Largest IoU of the lesion with a connected component (18 neighbours) of another mask; 0 if none meets it.

    >>> row = np.arange(6)[None, None]
    >>> best_iou(row < 2, (row < 3) | (row > 4))
    0.6666666666666666
    """
    labels = label_components(mask, connectivity=18)
    met = np.unique(labels[lesion])
    found = [
        float((lesion & (labels == one)).sum() / (lesion | (labels == one)).sum()) for one in met[met > 0].tolist()
    ]
    return max(found, default=0.0)


def _members(probe: Probe, alone: Sequence[nn.Module]) -> list[Float[np.ndarray, " voxels"]]:
    """Lesion probability of every member at the voxels that the probe asks about, in the order of its voxels."""
    spec = replace(probe.model.spec, members=1)
    if probe.model.spec.members > 1:
        ((logits,),) = probe.logits([probe.base])
        return [probability(part, spec).numpy() for part in torch.split(logits, spec.classes)]
    found = []
    for network in alone:
        ((logits,),) = probe.asking(network).logits([probe.base])
        found.append(probability(logits, spec).numpy())
    return found
