"""Features of disagreement: does the network say the same of a lesion when asked in another way?

Mirrored inputs and noise are offered by every network; dropout and the members of an ensemble where there are any.
These are baselines, not explanations: they need forward passes alone.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from lesionwise.asking.probe import Probe
from lesionwise.asking.variants import Mirrored
from lesionwise.attribution.engine.noise import normal
from lesionwise.triage.baselines import entropy_bit
from lesionwise.triage.features import Feature
from lesionwise.triage.probing import Questions
from lesionwise.triage.structural import STRUCTURAL, structural_uncertainty
from lesionwise.types import Shape

NOISE_DRAWS = 4
DROPOUT_DRAWS = 4

_DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


DISAGREEMENT: tuple[Feature, ...] = (
    Feature("mirrored_drop", "disagreement", "mirroring", "the loss of log-odds when mirrored", "log-odds"),
    Feature("mirrored_spread", "disagreement", "mirroring", "the spread of log-odds over mirrorings", "log-odds"),
    Feature("noise_drop", "disagreement", "noise", "the loss of log-odds under noise", "log-odds"),
    Feature("noise_spread", "disagreement", "noise", "the spread of log-odds under noise", "log-odds"),
    Feature("kept_share", "disagreement", "steadiness", "the share of it kept when mirrored or under noise"),
    Feature("detected_share", "disagreement", "steadiness", "how often it is found when mirrored or under noise"),
    Feature("mutual_information", "disagreement", "steadiness", "the disagreement when mirrored or under noise", "bit"),
    Feature("dropout_drop", "disagreement", "dropout", "the loss of log-odds under dropout", "log-odds"),
    Feature("dropout_spread", "disagreement", "dropout", "the spread of log-odds under dropout", "log-odds"),
    Feature("member_spread", "disagreement", "the ensemble", "the spread of log-odds over the ensemble", "log-odds"),
)
"""Dropout and ensemble are nan where the network has none."""


def features(channels: Sequence[str]) -> list[Feature]:
    """The features of the family disagreement, the same for all channels; they ask the network again."""
    return list(DISAGREEMENT)


def disagreement_features(
    questions: Questions | None, labels: Sequence[int], *, seed: int = 0
) -> dict[int, dict[str, float]]:
    """Family disagreement of some lesions; nan without images, and for what the network does not offer.

    Passes are the unchanged input, one mirrored along each axis of the network's grid, and four with SmoothGrad's noise.
    Drops and spreads are of the lesion's mean log-odds: drop = unchanged - mean of the changed, spread = standard
    deviation over the unchanged and the changed. kept_share is the mean over passes of the share of its voxels above
    the threshold, detected_share the share of passes that leave any. mutual_information (bit) is the mean over voxels
    of H(mean p) - mean H(p) over passes (Houlsby2011). Also the family structural, for ensembles and folds.
    """
    names = [feature.name for feature in (*DISAGREEMENT, *STRUCTURAL)]
    found: dict[int, dict[str, float]] = {}
    for label in labels:
        found[label] = dict.fromkeys(names, float("nan"))
        probe = None if questions is None else questions.about(label)
        if questions is not None and probe is not None:
            found[label] = {**found[label], **_of_lesion(questions, probe, seed=seed)}
            found[label]["structural_uncertainty"] = structural_uncertainty(questions, label)
    return found


def _of_lesion(questions: Questions, probe: Probe, *, seed: int) -> dict[str, float]:
    network = probe.model.network
    members = _members(probe)
    plain = _voxels(probe)
    mirrored = [_voxels(probe.asking(Mirrored(network, axis))) for axis in range(3)]
    noisy = [reading.target for (reading,) in probe.read(list(_noisy(questions, probe, seed=seed)))]
    passes = np.stack([plain, *mirrored, *noisy])
    p = 1.0 / (1.0 + np.exp(-np.clip(passes, -50, 50)))
    above = p > probe.threshold
    found = {
        **_spread("mirrored", plain, mirrored),
        **_spread("noise", plain, noisy),
        "kept_share": float(above.mean()),
        "detected_share": float(above.any(axis=1).mean()),
        "mutual_information": float((entropy_bit(p.mean(axis=0)) - entropy_bit(p).mean(axis=0)).mean()),
    }
    if len(members) > 1:
        found["member_spread"] = float(members.mean(axis=1).std())
    active = [m for m in network.modules() if isinstance(m, _DROPOUT) and m.p > 0]
    if active:
        with _dropping(active, seed=seed):
            dropped = [_voxels(probe) for _ in range(DROPOUT_DRAWS)]
        found |= _spread("dropout", plain, dropped)
    return found


def _voxels(probe: Probe) -> Float[np.ndarray, " voxels"]:
    """The lesion's log-odds, voxel by voxel; for ensembles, of the mean probability."""
    return probe.read([probe.base])[0][0].target


def _members(probe: Probe) -> Float[np.ndarray, "members voxels"]:
    """Log-odds of every member of an ensemble."""
    spec = replace(probe.model.spec, members=1)
    ((logits,),) = probe.logits([probe.base])
    return torch.stack([probe.target.value(part, spec) for part in logits.split(spec.classes)]).numpy()


def _spread(
    name: str, plain: Float[np.ndarray, " voxels"], changed: Sequence[Float[np.ndarray, " voxels"]]
) -> dict[str, float]:
    means = np.array([plain.mean(), *(one.mean() for one in changed)])
    return {f"{name}_drop": float(means[0] - means[1:].mean()), f"{name}_spread": float(means.std())}


def _noisy(questions: Questions, probe: Probe, *, seed: int) -> Iterator[Tensor]:
    """The input with noise in the head: a function of seed, draw and voxel alone, wherever the window lies."""
    grid = questions.placement.input.shape[2:]
    shape: Shape = (int(grid[0]), int(grid[1]), int(grid[2]))
    sd = torch.from_numpy(questions.noise_sd).to(probe.base)[:, None, None, None]
    head = torch.from_numpy(probe.head)
    for draw in range(NOISE_DRAWS):
        drawn = normal(
            probe.box, shape, channels=len(probe.base), seed=seed, draw=draw, dtype=torch.float32, device="cpu"
        )
        yield probe.base + sd * drawn.to(probe.base) * head


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
