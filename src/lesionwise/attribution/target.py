"""What is explained: a number per lesion voxel, made from the fused logits (METHOD section 2).

A target also yields the output seeds: the derivative of each voxel's number with respect to the logits there.
"""

import math
from abc import ABC, abstractmethod

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
        if spec.members == 1 and spec.activation == "sigmoid":
            return logits[spec.lesion_class]
        if spec.members == 1:
            others = [j for j in range(spec.classes) if j != spec.lesion_class]
            rest = logits[others[0]] if len(others) == 1 else torch.logsumexp(logits[others], dim=0)
            return logits[spec.lesion_class] - rest
        inside, outside = _log_probabilities(logits, spec)
        return torch.logsumexp(inside, dim=0) - torch.logsumexp(outside, dim=0)

    def is_linear(self, spec: Spec) -> bool:
        """True for one sigmoid channel and for two classes."""
        return spec.members == 1 and (spec.activation == "sigmoid" or spec.classes == 2)


class Logit(AbstractTarget):
    """z_k of the lesion class, as published; the mean over an ensemble's members."""

    name = "logit"
    unit = "logit"

    def value(self, logits: Float[Tensor, " outputs *voxels"], spec: Spec) -> Float[Tensor, " *voxels"]:
        """y at every voxel."""
        return _by_member(logits, spec)[:, spec.lesion_class].mean(dim=0)

    def is_linear(self, spec: Spec) -> bool:
        """Always."""
        return True


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
        z = member[:, spec.lesion_class]
        return torch.nn.functional.logsigmoid(z), torch.nn.functional.logsigmoid(-z)
    log_p = torch.log_softmax(member, dim=1)
    others = [j for j in range(member.shape[1]) if j != spec.lesion_class]
    return log_p[:, spec.lesion_class], torch.logsumexp(log_p[:, others], dim=1)
