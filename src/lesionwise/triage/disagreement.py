"""Features of disagreement: does the network say the same of a lesion when asked in another way?

Mirrored inputs and noise are offered by every network; dropout and the members of an ensemble where there are any.
These are baselines, not explanations: they need forward passes alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from lesionwise.attribution.engine.noise import normal
from lesionwise.triage.baselines import entropy_bit
from lesionwise.triage.features import DISAGREEMENT
from lesionwise.triage.probing import Cut, Probe
from lesionwise.types import ImageArray, Shape

NOISE_DRAWS = 4
DROPOUT_DRAWS = 4

_DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


def disagreement_features(probe: Probe | None, labels: Sequence[int], *, seed: int = 0) -> dict[int, Mapping]:
    """Family disagreement of some lesions; nan without images, and for what the network does not offer.

    Passes are the unchanged input, one mirrored along each axis of the network's grid, and four with SmoothGrad's noise.
    Drops and spreads are of the lesion's mean log-odds: drop = unchanged - mean of the changed, spread = standard
    deviation over the unchanged and the changed. kept_share is the mean over passes of the share of its voxels above
    the threshold, detected_share the share of passes that leave any. mutual_information (bit) is the mean over voxels
    of H(mean p) - mean H(p) over passes (Houlsby2011).
    """
    names = [feature.name for feature in DISAGREEMENT]
    found: dict[int, Mapping] = {}
    for label in labels:
        found[label] = dict.fromkeys(names, float("nan"))
        cut = None if probe is None else probe.cut(label)
        if probe is not None and cut is not None:
            found[label] = {**found[label], **_of_lesion(probe, cut, seed=seed)}
    return found


def _of_lesion(probe: Probe, cut: Cut, *, seed: int) -> dict[str, float]:
    members = probe.members(cut.x, cut.inside)
    plain = probe.voxels(cut.x, cut.inside)
    mirrored = [_mirrored(probe, cut, axis) for axis in range(3)]
    noisy = [probe.voxels(x, cut.inside) for x in _noisy(probe, cut, seed=seed)]
    passes = np.stack([plain, *mirrored, *noisy])
    p = 1.0 / (1.0 + np.exp(-np.clip(passes, -50, 50)))
    above = p > probe.scan.threshold
    found = {
        **_spread("mirrored", plain, mirrored),
        **_spread("noise", plain, noisy),
        "kept_share": float(above.mean()),
        "detected_share": float(above.any(axis=1).mean()),
        "mutual_information": float((entropy_bit(p.mean(axis=0)) - entropy_bit(p).mean(axis=0)).mean()),
    }
    if len(members) > 1:
        found["member_spread"] = float(members.mean(axis=1).std())
    active = [m for m in probe.network.modules() if isinstance(m, _DROPOUT) and m.p > 0]
    if active:
        with _dropping(active, seed=seed):
            dropped = [probe.voxels(cut.x, cut.inside) for _ in range(DROPOUT_DRAWS)]
        found |= _spread("dropout", plain, dropped)
    return found


def _spread(
    name: str, plain: Float[np.ndarray, " voxels"], changed: Sequence[Float[np.ndarray, " voxels"]]
) -> dict[str, float]:
    means = np.array([plain.mean(), *(one.mean() for one in changed)])
    return {f"{name}_drop": float(means[0] - means[1:].mean()), f"{name}_spread": float(means.std())}


def _mirrored(probe: Probe, cut: Cut, axis: int) -> Float[np.ndarray, " voxels"]:
    """Log-odds at the lesion's own voxels when input and output are mirrored."""
    inside = np.zeros(cut.inside.shape, dtype=np.int64)
    inside[cut.inside] = np.arange(1, int(cut.inside.sum()) + 1)
    turned = np.flip(inside, axis=axis)
    values = probe.voxels(np.flip(cut.x, axis=axis + 1), turned > 0)
    return values[np.argsort(turned[turned > 0])]


def _noisy(probe: Probe, cut: Cut, *, seed: int) -> Iterator[ImageArray]:
    """The window with noise in the head: a function of seed, draw and voxel alone, whatever window is cut."""
    grid = probe.placement.input.shape[2:]
    shape: Shape = (int(grid[0]), int(grid[1]), int(grid[2]))
    sd = probe.noise_sd[:, None, None, None]
    for draw in range(NOISE_DRAWS):
        drawn = normal(cut.box, shape, channels=len(cut.x), seed=seed, draw=draw, dtype=torch.float32, device="cpu")
        yield (cut.x + sd * drawn.numpy() * cut.head).astype(cut.x.dtype)


@contextmanager
def _dropping(modules: Sequence[nn.Module], *, seed: int) -> Iterator[None]:
    """Dropout switched on, seeded, and off again; batch normalisation stays as it is."""
    before = [module.training for module in modules]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            for module in modules:
                module.train()
            yield
        finally:
            for module, training in zip(modules, before, strict=True):
                module.train(training)
