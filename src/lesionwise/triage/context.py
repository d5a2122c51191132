"""Features that take inputs away: how the lesion's log-odds answer, and whether the map had foreseen it."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from lesionwise.asking.probe import Probe
from lesionwise.geometry.distance import distance_to_mm
from lesionwise.triage.features import Feature, of_channels
from lesionwise.triage.probing import Questions
from lesionwise.types import MapArray, MaskArray

CONTEXT_MM = 5.0
"""Surroundings kept when the rest is set to 0 (the mean of the head); the published curve is steepest below it."""


CONTEXT: tuple[Feature, ...] = (
    Feature(
        "drop_removed",
        "context",
        "what holds it up",
        "the loss of log-odds when healthy tissue replaces it",
        "log-odds",
    ),
    Feature(
        "drop_isolated", "context", "dependence on context", "the loss of log-odds without its surroundings", "log-odds"
    ),
)

PER_CHANNEL: tuple[Feature, ...] = (
    Feature(
        "drop_channel", "context", "what {c} holds up", "the loss of log-odds when only {c} is healthy", "log-odds"
    ),
)

FAITHFULNESS: tuple[Feature, ...] = (
    Feature(
        "drop_salient",
        "faithfulness",
        "faithfulness of the map",
        "the loss of log-odds without the map's strongest voxels",
        "log-odds",
    ),
    Feature(
        "beyond_first_order",
        "faithfulness",
        "faithfulness of the map",
        "what its removal does that the map does not foresee",
        "log-odds",
    ),
)
"""Whether the network answers as the map says: these need both."""


def features(channels: Sequence[str]) -> list[Feature]:
    """The features of the families context and faithfulness; they ask the network again."""
    return [*CONTEXT, *of_channels(PER_CHANNEL, channels), *FAITHFULNESS]


def context_features(
    questions: Questions | None, labels: Sequence[int], *, channels: Sequence[str]
) -> dict[int, Mapping]:
    """Families context and faithfulness of some lesions, in log-odds; all nan without images (`questions` is None).

    A drop is score(unchanged) - score(changed): positive where what was taken away spoke for the lesion. removed: the
    lesion and one voxel around it are inpainted with healthy white matter in all channels; channel: in that channel
    only; isolated: everything farther than 5 mm from the lesion's border is 0; salient: healthy tissue replaces the
    voxels where the map is strongest, as many as the lesion has. beyond_first_order is
    drop_removed - sum M (x - inpainted), what removal does that the map did not foresee: 0 for a linear network.
    """
    names = ["drop_removed", "drop_isolated", *(f"drop_channel_{channel}" for channel in channels)]
    names += ["drop_salient", "beyond_first_order"]
    found: dict[int, Mapping] = {}
    for label in labels:
        found[label] = dict.fromkeys(names, float("nan"))
        probe = None if questions is None else questions.about(label)
        if questions is None or probe is None:
            continue
        filled = probe.inpainted(probe.lesion(), rng=None)
        inputs = _variants(questions, probe, label, filled)
        saliency = questions.map(label)
        if saliency is not None:
            strongest = _strongest(saliency.numpy(), int(probe.lesion().sum()))
            inputs.append(probe.inpainted(strongest, rng=None, grow_vox=0))
        scores = np.array([reading.target_mean for (reading,) in probe.read(inputs)])
        measured = dict(zip(names, (scores[0] - scores[1:]).tolist(), strict=False))
        if saliency is not None:
            foreseen = float((saliency * (probe.base - filled)).sum())
            measured["beyond_first_order"] = measured["drop_removed"] - foreseen
        found[label] = {**found[label], **measured}
    return found


def _variants(questions: Questions, probe: Probe, label: int, filled: Tensor) -> list[Tensor]:
    """Unchanged, removed, isolated, and with one channel healthy."""
    scan = questions.scan
    distance = distance_to_mm(scan.labels == label, scan.sizes_mm, reach_mm=2 * CONTEXT_MM)
    near = torch.from_numpy(probe.field(distance, outside=np.inf) <= CONTEXT_MM)
    variants = [probe.base, filled, torch.where(near, probe.base, 0.0)]
    for channel in range(len(probe.base)):
        one = probe.base.clone()
        one[channel] = filled[channel]
        variants.append(one)
    return variants


def _strongest(saliency: MapArray, count: int) -> MaskArray:
    """The `count` voxels where the sum of |M| over the channels is largest; fewer where the map is 0."""
    mass = np.abs(saliency).sum(axis=0)
    order = np.argsort(-mass, axis=None, kind="stable")[:count]
    chosen = np.zeros(mass.shape, dtype=bool)
    chosen.ravel()[order] = True
    return chosen & (mass > 0)
