"""Features that ask the network again: how the lesion's log-odds answer when inputs are taken away.

All scores are means over the lesion of the log-odds, in one window centred on the lesion, on the network's own grid;
the unchanged input is scored in the same window, so that a difference is due to the change alone.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from lesionwise.inpainting import inpaint
from lesionwise.instances.tissue import white_matter
from lesionwise.segmenter import AbstractSegmenter, Placement, Spec
from lesionwise.triage.scan import TriageScan
from lesionwise.volume import Box

CONTEXT_MM = 5.0
"""Surroundings kept when the rest is set to 0 (the mean of the head); the published curve is steepest below it."""


def context_features(
    scan: TriageScan, model: AbstractSegmenter, labels: Sequence[int]
) -> dict[int, Mapping[str, float]]:
    """Family context of some lesions: drop_removed, drop_isolated and drop_channel_<channel>, in log-odds.

    A drop is score(unchanged) - score(changed): positive where what was taken away spoke for the lesion. removed: the
    lesion and one voxel around it are inpainted with healthy white matter in all channels; channel: in that channel
    only; isolated: everything farther than 5 mm from the lesion is 0. Without images there is nothing to compute: nan.
    """
    names = ["drop_removed", "drop_isolated", *(f"drop_channel_{channel}" for channel in scan.channels)]
    if scan.case is None:
        return {label: dict.fromkeys(names, float("nan")) for label in labels}
    placement = model.place(scan.case)
    network = model.network
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    lesions = _on_network(placement, scan.mask)
    healthy = _on_network(placement, white_matter(scan.case).mask) & ~lesions
    found: dict[int, Mapping[str, float]] = {}
    for label in labels:
        omega = _on_network(placement, scan.labels == label)
        if not omega.any():
            found[label] = dict.fromkeys(names, float("nan"))
            continue
        box = _centred(omega, model.spec.window)
        x = _cut(placement.input[0].numpy(), box)
        inside, around = _cut(omega[None], box)[0], _cut(healthy[None], box)[0]
        scores = _scores(network, model.spec, _variants(x, inside, around), inside, device=device)
        found[label] = dict(zip(names, (scores[0] - scores[1:]).tolist(), strict=True))
    return found


def _variants(x: np.ndarray, inside: np.ndarray, healthy: np.ndarray) -> list[np.ndarray]:
    """Unchanged, removed, isolated, and with one channel healthy."""
    filled = inpaint(x, inside, healthy=healthy, grow_vox=1)
    near = ndimage.distance_transform_edt(~inside) <= CONTEXT_MM
    variants = [x, filled, np.where(near, x, 0).astype(x.dtype)]
    for channel in range(len(x)):
        one = x.copy()
        one[channel] = filled[channel]
        variants.append(one)
    return variants


def _scores(
    network: torch.nn.Module, spec: Spec, variants: Sequence[np.ndarray], inside: np.ndarray, *, device: torch.device
) -> np.ndarray:
    """Mean log-odds over the lesion for every variant."""
    where = torch.from_numpy(inside).to(device)
    scores = []
    with torch.no_grad():
        for one in variants:
            logits = network(torch.from_numpy(one)[None].to(device))[0]
            scores.append(float(_log_odds(logits, spec)[where].mean()))
    return np.asarray(scores)


def _log_odds(logits: Tensor, spec: Spec) -> Tensor:
    if spec.activation == "sigmoid":
        return logits[spec.lesion_class]
    rest = [k for k in range(logits.shape[0]) if k != spec.lesion_class]
    return logits[spec.lesion_class] - torch.logsumexp(logits[rest], dim=0)


def _on_network(placement: Placement, mask: np.ndarray) -> np.ndarray:
    """A mask of the scan on the network's grid."""
    return (placement.to_network.forward(torch.from_numpy(mask.astype(np.float32))) > 0.5).numpy()


def _centred(omega: np.ndarray, window: tuple[int, int, int]) -> Box:
    """The window around the middle of the lesion's box; it may stick out of the grid."""
    box = Box.around(np.argwhere(omega))
    middle = [(a + b) // 2 for a, b in zip(box.start, box.stop, strict=True)]
    start = [m - w // 2 for m, w in zip(middle, window, strict=True)]
    return Box((start[0], start[1], start[2]), (start[0] + window[0], start[1] + window[1], start[2] + window[2]))


def _cut(values: np.ndarray, box: Box) -> np.ndarray:
    """A box out of (channels, i, j, k), 0 where it sticks out, as padding at the scan's edge is."""
    out = np.zeros((len(values), *box.shape), dtype=values.dtype)
    shape = values.shape[1:]
    common = box.intersection(Box.whole((shape[0], shape[1], shape[2])))
    out[(slice(None), *common.relative_to(box).slices)] = values[(slice(None), *common.slices)]
    return out
