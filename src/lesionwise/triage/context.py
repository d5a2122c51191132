"""Features that take inputs away: how the lesion's log-odds answer, and whether the map had foreseen it."""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import ndimage

from lesionwise.inpainting import inpaint
from lesionwise.triage.probing import Cut, Probe
from lesionwise.types import ImageArray, MaskArray

CONTEXT_MM = 5.0
"""Surroundings kept when the rest is set to 0 (the mean of the head); the published curve is steepest below it."""


def context_features(probe: Probe | None, labels: Sequence[int], *, channels: Sequence[str]) -> dict[int, Mapping]:
    """Families context and faithfulness of some lesions, in log-odds; all nan without images (`probe` is None).

    A drop is score(unchanged) - score(changed): positive where what was taken away spoke for the lesion. removed: the
    lesion and one voxel around it are inpainted with healthy white matter in all channels; channel: in that channel
    only; isolated: everything farther than 5 mm from the lesion is 0; salient: healthy tissue replaces the voxels where
    the map is strongest, as many as the lesion has. beyond_first_order is drop_removed - sum M (x - inpainted), what
    removal does that the map did not foresee: 0 for a linear network.
    """
    names = ["drop_removed", "drop_isolated", *(f"drop_channel_{channel}" for channel in channels)]
    names += ["drop_salient", "beyond_first_order"]
    found: dict[int, Mapping] = {}
    for label in labels:
        found[label] = dict.fromkeys(names, float("nan"))
        cut = None if probe is None else probe.cut(label)
        if probe is None or cut is None:
            continue
        filled = inpaint(cut.x, cut.inside, healthy=cut.healthy, grow_vox=1)
        inputs = _variants(cut, filled)
        if cut.map is not None:
            strongest = _strongest(cut.map, int(cut.inside.sum()))
            inputs.append(inpaint(cut.x, strongest, healthy=cut.healthy & ~strongest))
        scores = probe.scores(inputs, cut.inside)
        measured = dict(zip(names, (scores[0] - scores[1:]).tolist(), strict=False))
        if cut.map is not None:
            foreseen = float((cut.map * (cut.x - filled)).sum())
            measured["beyond_first_order"] = measured["drop_removed"] - foreseen
        found[label] = {**found[label], **measured}
    return found


def _variants(cut: Cut, filled: ImageArray) -> list[ImageArray]:
    """Unchanged, removed, isolated, and with one channel healthy."""
    near = ndimage.distance_transform_edt(~cut.inside) <= CONTEXT_MM
    variants = [cut.x, filled, np.where(near, cut.x, 0).astype(cut.x.dtype)]
    for channel in range(len(cut.x)):
        one = cut.x.copy()
        one[channel] = filled[channel]
        variants.append(one)
    return variants


def _strongest(saliency: ImageArray, count: int) -> MaskArray:
    """The `count` voxels where the sum of |M| over the channels is largest; fewer where the map is 0."""
    mass = np.abs(saliency).sum(axis=0)
    order = np.argsort(-mass, axis=None, kind="stable")[:count]
    chosen = np.zeros(mass.shape, dtype=bool)
    chosen.ravel()[order] = True
    return chosen & (mass > 0)
