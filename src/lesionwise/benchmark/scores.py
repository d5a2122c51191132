"""How well a signed map names a known answer: region x channel x sign. Arrays in, numbers out.

Every score is better when higher and uses the sign, so that the reversed map, the shuffled map and the map of another
lesion lose.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from lesionwise.stats import auc
from lesionwise.types import MaskArray

Map = Float[np.ndarray, "channels i j k"]
SCORES: Mapping[str, str] = {
    "named": "share of lesions whose strongest region x channel x sign is the planted one",
    "channel": "share of the evidence in the cause's region that lies, with the right sign, in its channel",
    "place": "AUC: voxels of the cause above those around it, in its channel, by the right sign",
    "sign": "how far the values in the cause agree in sign, right 1, wrong -1",
    "off": "AUC: voxels of the cause, by the right sign, above the magnitude in other blobs",
    "order": "share of shuffles that lie between the map and its reverse in agreement with the truth",
}
"""What each score says; all lie between 0 and 1, `sign` between -1 and 1."""
SHUFFLES = 20


@dataclass(frozen=True, eq=False)
class Cell:
    """One possible answer: a channel in a region, and the sign that is right there (0: none is)."""

    place: str
    channel: int
    region: MaskArray
    sign: int = 0


@dataclass(frozen=True, eq=False)
class KnownAnswer:
    """The right answer among the possible ones.

    `causes` are right; `also` rightly has evidence that no score counts for or against; `wrong` are the other possible
    answers. `near` is where a map is judged, `others` are the voxels of other blobs.
    """

    causes: tuple[Cell, ...]
    also: tuple[Cell, ...]
    wrong: tuple[Cell, ...]
    near: MaskArray
    others: MaskArray

    def judged(self, channels: int) -> Bool[np.ndarray, "channels i j k"]:
        """Where values count, by channel (channels, i, j, k): near, without `also` and the soft edge of a cause."""
        where = np.repeat(self.near[None], channels, axis=0)
        for cell in self.also:
            if cell.channel < channels:
                where[cell.channel] &= ~ndimage.binary_dilation(cell.region)
        for cell in self.causes:
            if cell.channel < channels:
                edge = ndimage.binary_dilation(cell.region) & ~cell.region
                where[cell.channel] = (where[cell.channel] | cell.region) & ~edge
        return where


def scores_of(m: Map, answer: KnownAnswer, rng: np.random.Generator) -> dict[str, float]:
    """Every score of `SCORES` of one map. A map of one channel for all inputs (class activation) has no `named`, `channel`."""
    whole = len(m) > 1
    found = {"named": named(m, answer) if whole else np.nan, "channel": channel(m, answer) if whole else np.nan}
    found |= {"place": place(m, answer), "sign": sign(m, answer), "off": off(m, answer), "order": order(m, answer, rng)}
    return found


def named(m: Map, answer: KnownAnswer) -> float:
    """1 if the strongest cells by |sum of M| are the causes, each with its sign."""
    cells = [*answer.causes, *answer.wrong]
    sums = np.array([float(m[cell.channel][cell.region].sum()) for cell in cells])
    count = len(answer.causes)
    right = all(np.sign(value) == cell.sign for value, cell in zip(sums, answer.causes, strict=False))
    rest = np.abs(sums[count:]).max(initial=0.0)
    return float(right and np.abs(sums[:count]).min() > rest)


def channel(m: Map, answer: KnownAnswer) -> float:
    """Right evidence in the cause's channel over all evidence in its region; of two causes, how even they are."""
    if len(answer.causes) > 1:
        right = [max(0.0, e) for e in _evidence(m, answer.causes)]
        return len(right) * min(right) / sum(right) if sum(right) > 0 else 0.0
    (cause,) = answer.causes
    (right_one,) = _evidence(m, answer.causes)
    wrong = sum(abs(float(m[c][cause.region].sum())) for c in range(len(m)) if c != cause.channel)
    positive = max(0.0, right_one)
    return positive / (positive + wrong) if positive + wrong > 0 else 0.0


def place(m: Map, answer: KnownAnswer) -> float:
    """Mean over causes of the AUC of sign x M inside against around, in the cause's channel."""
    judged, found = answer.judged(len(m)), []
    for cell, values in _signed(m, answer.causes):
        around = judged[min(cell.channel, len(m) - 1)] & ~cell.region
        found.append(auc(values[cell.region], values[around]))
    return float(np.mean(found))


def sign(m: Map, answer: KnownAnswer) -> float:
    """Mean over causes of sum(s (M - mean)) / sum|M - mean| inside, the mean being that of all judged values; 0 for none."""
    judged, found = answer.judged(len(m)), []
    middle = float(m[judged].mean()) if judged.any() else 0.0
    for cell in answer.causes:
        inside = m[min(cell.channel, len(m) - 1)][cell.region] - middle
        size = float(np.abs(inside).sum())
        found.append(cell.sign * float(inside.sum()) / size if size > 0 else 0.0)
    return float(np.mean(found))


def off(m: Map, answer: KnownAnswer) -> float:
    """Mean over causes of the AUC of sign x M inside against the largest |M| over channels in other blobs; NaN without."""
    if not answer.others.any():
        return float("nan")
    there = np.abs(m).max(axis=0)[answer.others]
    return float(np.mean([auc(values[cell.region], there) for cell, values in _signed(m, answer.causes)]))


def order(m: Map, answer: KnownAnswer, rng: np.random.Generator) -> float:
    """Share of shuffles S of M for which agreement(M) > agreement(S) > agreement(-M).

    Agreement is the correlation of the judged values with the truth: the sign in a cause, 0 elsewhere.
    """
    judged = answer.judged(len(m))
    truth = np.zeros(m.shape)
    for cell in answer.causes:
        truth[min(cell.channel, len(m) - 1)][cell.region] = cell.sign
    values, wanted = m[judged].astype(float), truth[judged]
    values, wanted = values - values.mean(), wanted - wanted.mean()
    size = float(np.linalg.norm(values) * np.linalg.norm(wanted))
    if not size > 0:
        return 0.0
    own = float(values @ wanted) / size
    shuffled = [float(rng.permutation(values) @ wanted) / size for _ in range(SHUFFLES)]
    return float(np.mean([own > one > -own for one in shuffled]))


def _evidence(m: Map, cells: Sequence[Cell]) -> list[float]:
    return [cell.sign * float(m[cell.channel][cell.region].sum()) for cell in cells]


def _signed(m: Map, cells: Sequence[Cell]) -> Iterator[tuple[Cell, np.ndarray]]:
    for cell in cells:
        yield cell, cell.sign * m[min(cell.channel, len(m) - 1)].astype(float)
