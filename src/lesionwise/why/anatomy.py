"""Anatomical Shapley: what each part that a reader names adds to a lesion's log-odds, channel by channel."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lesionwise.why.changes import RIM_MM
from lesionwise.why.question import NEAR_MM, Question
from lesionwise.why.shapley import Shares, shapley

FILLS = ("tissue", "texture", "neutral")
"""What takes the place of a part: healthy tissue; the same with another texture; the mean of the head."""
EVALUATIONS = 128
PARTS = ("lesion", "rim", "white", "grey", "fluid", "others", "far")


@dataclass(frozen=True, eq=False)
class AnatomicalShapley:
    """What each part adds to the lesion's target, by (part, channel), with standard errors (nan where exact).

    The values of all parts add up to `total` = target of the scan - target of the scan made healthy all over. `spread`
    is the largest difference between `FILLS`, by part and channel; empty if only one was tried.
    """

    values: Mapping[tuple[str, str], float]
    errors: Mapping[tuple[str, str], float]
    total: float
    exact: bool
    evaluations: int
    spread: Mapping[tuple[str, str], float]

    @property
    def leading(self) -> tuple[str, str]:
        """The part and channel that speak most for the lesion."""
        return max(self.values, key=lambda player: self.values[player])


def parts(question: Question) -> dict[str, Tensor]:
    """Masks of the probe's box that do not overlap and hold the head together; parts without a voxel are left out.

    lesion: the lesion; others: other lesions; rim: 0-3 mm around it; white, grey and fluid: tissue up to 15 mm; far: the
    rest of the head.
    """
    probe, scan, distance = question.probe, question.scan, question.distance_mm
    left = torch.from_numpy(probe.head) | question.lesion
    tissue = scan.tissues
    near = distance <= NEAR_MM
    wanted = {
        "lesion": question.lesion,
        "others": question.others,
        "rim": distance <= RIM_MM,
        "fluid": near & torch.from_numpy(probe.mask(tissue.fluid)),
        "grey": near & torch.from_numpy(probe.mask(tissue.grey)),
        "white": near,
        "far": torch.ones_like(left),
    }
    found = {}
    for name, mask in wanted.items():
        found[name] = mask & left
        left = left & ~mask
    return {name: found[name] for name in PARTS if bool(found[name].any())}


def anatomical_shapley(
    question: Question, *, evaluations: int = EVALUATIONS, fills: Sequence[str] = FILLS[:1]
) -> AnatomicalShapley:
    """Shapley values of parts x channels for the lesion's target: exact if 2^players <= `evaluations`, else sampled.

    The first of `fills` leads; each further one repeats the work and goes into `spread`. Costs up to `evaluations`
    asked-again passes for each fill (a few more if sampled).
    """
    masks, channels = parts(question), question.scan.channels
    players = [(part, channel) for part in masks for channel in channels]
    results = [_played(question, masks, players, fill, evaluations) for fill in fills]
    first = results[0]
    values = np.array([one.values for one in results])
    spread = dict(zip(players, np.ptp(values, axis=0).tolist(), strict=True)) if len(results) > 1 else {}
    return AnatomicalShapley(
        dict(zip(players, first.values.tolist(), strict=True)),
        dict(zip(players, first.errors.tolist(), strict=True)),
        first.total,
        first.exact,
        sum(one.evaluations for one in results),
        spread,
    )


def _played(
    question: Question, masks: Mapping[str, Tensor], players: Sequence[tuple[str, str]], fill: str, evaluations: int
) -> Shares:
    filled, channels = _fill(question, fill), question.scan.channels

    def shown(coalition: frozenset[int]) -> Tensor:
        image = question.base.clone()
        for number, (part, channel) in enumerate(players):
            if number not in coalition:
                c = channels.index(channel)
                image[c] = torch.where(masks[part], filled[c], image[c])
        return image

    def values(coalitions: Sequence[frozenset[int]]) -> list[float]:
        found: list[float] = []
        for start in range(0, len(coalitions), _TOGETHER):
            some = [shown(one) for one in coalitions[start : start + _TOGETHER]]
            found += [answer.target for answer in question.ask(some)]
        return found

    rng = question.scan.rng(question.instance.label, 30)
    return shapley(len(players), values, evaluations=evaluations, rng=rng)


def _fill(question: Question, fill: str) -> Tensor:
    """What is seen of a part that is taken away."""
    if fill == "neutral":
        return torch.zeros_like(question.base)
    seed = 31 if fill == "tissue" else 32
    return question.probe.tissue_everywhere(rng=question.scan.rng(question.instance.label, seed))


_TOGETHER = 12
"""Changed scans made at once, to bound memory."""
