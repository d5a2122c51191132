"""Does an explanation stay when what should not matter is changed: other networks of the model, mirror image, other noise?

A standard error of a map knows the noise draws only. Here the effect of every channel on a lesion, and the decision about it,
are asked again of each member of an ensemble (or each view of a model that averages views), of the image mirrored left to
right, and under other seeds of the noise. Scans of another day are compared by `lesionwise experiment sanity`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from torch import nn

from lesionwise.asking.scan import Scan
from lesionwise.asking.variants import Mirrored, networks_alone
from lesionwise.attribution import SmoothGrad
from lesionwise.why.question import Question

KINDS = ("networks", "mirrored", "seeds")
SEEDS = 2
"""Further seeds of the noise."""
MOST_VIEWS = 8
"""Views of a model that averages many (mirrors x folds) which are asked alone, evenly spread over them."""
SAME_SIZE = 2.0
"""Effects within this factor of one another count as the same."""
VERDICTS = ("stable", "size differs", "sign differs", "decision differs")


@dataclass(frozen=True)
class Opinion:
    """What one variant says of a lesion: whether it is found (None where only the noise differs), and each channel's effect."""

    kind: str
    found: bool | None
    effects: tuple[float, ...]


@dataclass(frozen=True)
class Stability:
    """All that the variants say of one lesion, the whole model (`kind` "model") first."""

    channels: tuple[str, ...]
    told: tuple[Opinion, ...]

    @property
    def whole(self) -> Opinion:
        """What the whole model says."""
        return self.told[0]

    def of(self, kind: str) -> list[Opinion]:
        """The variants of one kind."""
        return [one for one in self.told if one.kind == kind]

    @cached_property
    def leading(self) -> int:
        """The channel with the largest effect."""
        return int(np.argmax(np.abs(self.whole.effects)))

    @property
    def verdict(self) -> str:
        """The worst that holds of `VERDICTS`: another decision, another sign or another size of the leading effect."""
        return VERDICTS[max(self._worst(one) for one in self.told)]

    @property
    def source(self) -> str:
        """The kind of variant that departs most; empty if the lesion is stable."""
        worst = max(self._worst(one) for one in self.told)
        return "" if worst == 0 else next(one.kind for one in self.told if self._worst(one) == worst)

    def _worst(self, one: Opinion) -> int:
        if one.found is not None and one.found != self.whole.found:
            return 3
        own, other = self.whole.effects[self.leading], one.effects[self.leading]
        if own * other <= 0:
            return 2
        return int(not 1 / SAME_SIZE <= other / own <= SAME_SIZE)


def stability_of(question: Question, *, samples: int) -> Stability:
    """Asks every variant about one lesion; `samples` are the noise draws of each map."""
    scan, method = question.scan, SmoothGrad(n_samples=samples)
    told = [Opinion("model", question.unchanged.found, _effects(question, method))]
    for kind, network in variants_of(scan):
        asked = replace(question, probe=question.probe.asking(network))
        told.append(Opinion(kind, asked.unchanged.found, _effects(question, method, network=network)))
    for seed in range(SEEDS):
        told.append(Opinion("seeds", None, _effects(question, method, seed=1000 + seed)))
    return Stability(tuple(scan.channels), tuple(told))


def variants_of(scan: Scan) -> list[tuple[str, nn.Module]]:
    """The networks of the model, each alone, then the model before the mirror image; with their kind."""
    network = scan.model.network
    alone = networks_alone(network, most_views=MOST_VIEWS)
    return [*(("networks", one) for one in alone), ("mirrored", Mirrored(network, scan.left_right_axis).eval())]


def _effects(
    question: Question, method: SmoothGrad, *, network: nn.Module | None = None, seed: int | None = None
) -> tuple[float, ...]:
    """Per channel the sum of the map over the lesion: what one SD more throughout it adds to the target."""
    found = question.scan.attribute([question.instance], method, network=network, seed=seed)[0]
    inside = question.instance.mask(question.scan.case.image.shape)[found.box.slices]
    return tuple(float(channel[inside].sum(dtype=float)) for channel in found.data)


def stability_row(one: Stability) -> dict[str, Any]:
    """The columns of the why table that say it."""
    networks = one.of("networks")
    row: dict[str, Any] = {
        "stability": one.verdict,
        "stability_source": one.source,
        "stability_networks": len(networks),
        "stability_networks_found": sum(bool(each.found) for each in networks),
        "stability_mirrored_found": one.of("mirrored")[0].found,
    }
    for number, channel in enumerate(one.channels):
        row[f"stability_effect_{channel}"] = one.whole.effects[number]
        for kind in KINDS:
            effects = [each.effects[number] for each in one.of(kind)]
            low, high = (min(effects), max(effects)) if effects else (np.nan, np.nan)
            row[f"stability_{kind}_low_{channel}"], row[f"stability_{kind}_high_{channel}"] = low, high
    return row


def stability_columns(channels: Sequence[str], *, unit: str) -> Mapping[str, dict[str, str]]:
    """What these columns mean."""
    words = {
        "networks": "the members of the ensemble (or views of the model), each asked alone; n/a for a single network",
        "mirrored": "the model before the image mirrored left to right",
        "seeds": f"the model under {SEEDS} other seeds of the noise",
    }
    found = {
        "stability": {
            "Description": f"stable, or the worst that holds: {', '.join(VERDICTS[1:])} (size: the effect of the leading channel "
            f"by more than a factor of {SAME_SIZE:g})"
        },
        "stability_source": {"Description": "What departs most: " + ", ".join(KINDS) + "; empty if stable"},
        "stability_networks": {"Description": "How many members were asked alone", "Units": "1"},
        "stability_networks_found": {"Description": "How many of them find the lesion", "Units": "1"},
        "stability_mirrored_found": {"Description": "True if the lesion is found in the mirror image"},
    }
    for channel in channels:
        found[f"stability_effect_{channel}"] = {
            "Description": f"Effect of {channel}: what one SD more throughout the lesion adds to the target",
            "Units": f"{unit}/SD",
        }
        for kind in KINDS:
            for end in ("low", "high"):
                found[f"stability_{kind}_{end}_{channel}"] = {
                    "Description": f"{'Smallest' if end == 'low' else 'Largest'} effect of {channel} over {words[kind]}",
                    "Units": f"{unit}/SD",
                }
    return found
