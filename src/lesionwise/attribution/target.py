"""What is explained: a number per lesion voxel, made from the fused logits (METHOD section 2).

A target also yields the output seeds: the derivative of each voxel's number with respect to the logits there.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from lesionwise.errors import InputError
from lesionwise.segmenter import Spec


class AbstractTarget(ABC):
    """y[v] as a function of the fused logits at v: (members * classes, voxels) -> (voxels)."""

    name: str
    unit: str

    @abstractmethod
    def value(self, logits: Float[Tensor, " outputs *voxels"], spec: Spec) -> Float[Tensor, " *voxels"]:
        """y at every voxel."""

    @abstractmethod
    def is_linear(self, spec: Spec) -> bool:
        """True if y is linear in the logits, so that its seeds are the same for every input."""

    def seeds(self, logits: Float[Tensor, " outputs *voxels"], spec: Spec) -> Float[Tensor, " outputs *voxels"]:
        """dy[v]/dz[v] at every voxel; y[v] depends on the logits at v only."""
        with torch.enable_grad():
            leaf = logits.detach().requires_grad_(True)
            (seeds,) = torch.autograd.grad(self.value(leaf, spec).sum(), leaf)
        return seeds


class LogOdds(AbstractTarget):
    """z_k - logsumexp_{j != k} z_j of the lesion class: the log-odds of the predicted lesion probability.

    For one sigmoid channel it is the logit; for an ensemble the log-odds of the mean probability.
    """

    name = "log_odds"
    unit = "log-odds"

    def value(self, logits: Float[Tensor, " outputs *voxels"], spec: Spec) -> Float[Tensor, " *voxels"]:
        """y at every voxel."""
        if spec.members == 1 and spec.activation == "softmax":
            return _together(logits, spec.lesion_classes) - _together(logits, _others(spec))
        if spec.members == 1 and len(spec.lesion_classes) == 1:
            return logits[spec.lesion_classes[0]]
        inside, outside = _log_probabilities(logits, spec)
        return torch.logsumexp(inside, dim=0) - torch.logsumexp(outside, dim=0)

    def is_linear(self, spec: Spec) -> bool:
        """True for one sigmoid channel and for two classes."""
        alone = spec.members == 1 and len(spec.lesion_classes) == 1
        return alone and (spec.activation == "sigmoid" or spec.classes == 2)


class Logit(AbstractTarget):
    """z_k of the lesion class, as published; the mean over an ensemble's members.

    Several lesion classes are as one: the logsumexp of theirs under a softmax, the log-odds of any under sigmoids.
    """

    name = "logit"
    unit = "logit"

    def value(self, logits: Float[Tensor, " outputs *voxels"], spec: Spec) -> Float[Tensor, " *voxels"]:
        """y at every voxel."""
        members = _by_member(logits, spec)
        if len(spec.lesion_classes) > 1 and spec.activation == "sigmoid":
            return torch.stack([LogOdds().value(each, replace(spec, members=1)) for each in members]).mean(dim=0)
        return torch.stack([_together(each, spec.lesion_classes) for each in members]).mean(dim=0)

    def is_linear(self, spec: Spec) -> bool:
        """True for one lesion class."""
        return len(spec.lesion_classes) == 1


class Probability(AbstractTarget):
    """The predicted lesion probability; its derivative vanishes where the network is certain."""

    name = "probability"
    unit = "probability"

    def value(self, logits: Float[Tensor, " outputs *voxels"], spec: Spec) -> Float[Tensor, " *voxels"]:
        """y at every voxel."""
        inside, _ = _log_probabilities(logits, spec)
        return torch.exp(torch.logsumexp(inside, dim=0) - math.log(spec.members))

    def is_linear(self, spec: Spec) -> bool:
        """Never."""
        return False


TARGETS: dict[str, AbstractTarget] = {target.name: target for target in (LogOdds(), Logit(), Probability())}


def target_named(target: "str | AbstractTarget") -> AbstractTarget:
    """The target of that name; a target of one's own passes through."""
    if isinstance(target, AbstractTarget):
        return target
    if target not in TARGETS:
        raise InputError(f"The target must be one of {', '.join(TARGETS)}, found {target!r}.")
    return TARGETS[target]


def _by_member(logits: Tensor, spec: Spec) -> Tensor:
    return logits.reshape(spec.members, logits.shape[0] // spec.members, *logits.shape[1:])


def _log_probabilities(logits: Tensor, spec: Spec) -> tuple[Tensor, Tensor]:
    """Log-probability of lesion and of no lesion, per member."""
    member = _by_member(logits, spec)
    if spec.activation == "sigmoid":
        z = member[:, list(spec.lesion_classes)]
        outside = torch.nn.functional.logsigmoid(-z).sum(dim=1)
        inside = torch.logsumexp(torch.nn.functional.logsigmoid(z), dim=1)
        if z.shape[1] > 1:  # 1 - product of (1 - p_k); where all p_k are tiny their sum, which does not underflow
            tiny = outside > -1e-6
            inside = torch.where(tiny, inside, torch.log(-torch.expm1(outside.clamp(max=-1e-6))))
        return inside, outside
    log_p = torch.log_softmax(member, dim=1)
    return (
        torch.logsumexp(log_p[:, list(spec.lesion_classes)], dim=1),
        torch.logsumexp(log_p[:, list(_others(spec))], dim=1),
    )


def _others(spec: Spec) -> tuple[int, ...]:
    """Classes that are no lesion."""
    return tuple(k for k in range(spec.classes) if k not in spec.lesion_classes)


def _together(logits: Tensor, classes: Sequence[int]) -> Tensor:
    """The logit of several classes taken as one."""
    return logits[classes[0]] if len(classes) == 1 else torch.logsumexp(logits[list(classes)], dim=0)
