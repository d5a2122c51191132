"""Why every lesion of a scan was found, missed or invented: one row per lesion."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from lesionwise.asking.scan import Scan
from lesionwise.instances.instance import Instance
from lesionwise.why.anatomy import FILLS, PARTS, AnatomicalShapley, anatomical_shapley
from lesionwise.why.changes import Dial, contrast_dial, size_dial, without_neighbours, without_rim
from lesionwise.why.margin import MOST_PASSES, Margin, find_margins
from lesionwise.why.question import Answer, Question
from lesionwise.why.stability import Stability, stability_of, stability_row

JOINT = "all"


@dataclass(frozen=True)
class Effort:
    """How much is asked per lesion: `evaluations` of anatomical Shapley (0 leaves it out), and with which `fills`.

    `stability` is the number of noise draws of every map by which it is asked whether the explanation is stable (0: not asked).

    Margins change the lesion alone, so that few voxels of each layer are computed again; a part of the head that is
    taken away changes whole windows.
    """

    evaluations: int = 0
    fills: tuple[str, ...] = FILLS[:1]
    stability: int = 0

    def passes(self, channels: int) -> int:
        """Changed scans that one lesion may cost: a margin on every dial, two changes of context, Shapley, the scan."""
        return 1 + self._dials(channels) * MOST_PASSES + 2 + self._coalitions(channels)

    def whole_passes(self, channels: int) -> int:
        """Those of them that cost about as much as whole windows where a change of the lesion is followed through the layers.

        The scan, two changes of context, a check of every margin, Shapley, and about two for all that is searched.
        """
        return 1 + 2 + self._dials(channels) + self._coalitions(channels) + 2

    def _dials(self, channels: int) -> int:
        return channels + 2 if channels > 1 else 2

    def _coalitions(self, channels: int) -> int:
        sampled = max(self.evaluations, 4 * len(PARTS) * channels) if self.evaluations else 0
        return len(self.fills) * sampled


USUAL = Effort()


@dataclass(frozen=True, eq=False)
class Why:
    """What would have changed the network's mind about one lesion."""

    instance: Instance
    answer: Answer
    margins: dict[str, Margin]
    contrast_sd: dict[str, float]
    without_rim: Answer
    without_neighbours: Answer | None
    anatomy: AnatomicalShapley | None
    passes: int
    seconds: float
    stability: Stability | None = None


def why_lesion(scan: Scan, instance: Instance, *, effort: Effort = USUAL) -> Why:
    """Margins on every dial, what its surroundings do, and anatomical Shapley of one lesion."""
    begun = time.perf_counter()
    question = Question.about(scan, instance)
    margins = find_margins(question, dials_of(question))
    neighbours = without_neighbours(question)
    surroundings = question.ask([without_rim(question), *([] if neighbours is None else [neighbours])])
    anatomy = None
    if effort.evaluations:
        anatomy = anatomical_shapley(question, evaluations=effort.evaluations, fills=effort.fills)
    stability = stability_of(question, samples=effort.stability) if effort.stability else None
    return Why(
        instance,
        question.unchanged,
        dict(margins),
        question.contrast_sd,
        surroundings[0],
        surroundings[1] if len(surroundings) > 1 else None,
        anatomy,
        question.passes,
        time.perf_counter() - begun,
        stability,
    )


def dials_of(question: Question) -> list[Dial]:
    """The dials of a lesion: the contrast on all channels together and on each alone, and its size."""
    channels, found = question.scan.channels, question.unchanged.found
    dials = [contrast_dial(question, channels, found=found, name=JOINT)]
    if len(channels) > 1:
        dials += [contrast_dial(question, (channel,), found=found, name=channel) for channel in channels]
    return [*dials, size_dial(question, found=found)]


def why_scan(
    scan: Scan,
    *,
    effort: Effort = USUAL,
    lesions: Sequence[Instance] | None = None,
    progress_fn: Callable[[str, int, int], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> pd.DataFrame:
    """One row per lesion (`columns.described` says what the columns mean); control regions are left out.

    `say` is told the cost before the long part starts, from one pass that is timed.
    """
    chosen = [one for one in (scan.chosen if lesions is None else lesions) if one.outcome != "TN"]
    if say is not None and chosen:
        say(cost_of(scan, chosen, effort))
    rows = []
    for number, instance in enumerate(chosen):
        rows.append(row_of(why_lesion(scan, instance, effort=effort), scan.channels))
        if progress_fn is not None:
            progress_fn("why", number + 1, len(chosen))
    return pd.DataFrame(rows, columns=None if rows else ["lesion", "outcome"])


def cost_of(scan: Scan, chosen: Sequence[Instance], effort: Effort) -> str:
    """What is about to be spent, from one timed pass of the windows of one lesion, the one that fewest windows meet."""
    questions = [Question.about(scan, one) for one in chosen]
    quickest = min(questions, key=lambda one: len(one.probe.windows))
    clock = time.process_time if scan.device == "cpu" else time.perf_counter
    begun = clock()
    quickest.ask_plainly(quickest.base)
    seconds = (clock() - begun) / max(len(quickest.probe.windows), 1)
    windows, channels = sum(len(one.probe.windows) for one in questions), len(scan.channels)
    minutes = {
        passes: passes * windows * seconds / 60 for passes in (effort.passes(channels), effort.whole_passes(channels))
    }
    stability = f" Whether it is stable: maps of {effort.stability} draws besides." if effort.stability else ""
    return (
        f"Why: up to {effort.passes(channels)} changed scans for each of {len(chosen)} lesions, {windows} windows in all: about "
        f"{max(minutes[effort.whole_passes(channels)], 1):.0f} min of one core where a change can be followed through the "
        f"layers, at most {max(minutes[effort.passes(channels)], 1):.0f} where it cannot.{stability}"
    )


def row_of(why: Why, channels: Sequence[str]) -> dict[str, Any]:
    """A lesion's row of the table."""
    row: dict[str, Any] = {
        "lesion": why.instance.label,
        "outcome": why.instance.outcome,
        "why_found": why.answer.found,
        "why_target": why.answer.target,
    }
    for name, margin in why.margins.items():
        row[f"margin_{name}"] = margin.value
        row[f"margin_{name}_pm"] = margin.resolution
        row[f"margin_{name}_end"] = margin.end
    for channel in channels:
        row[f"contrast_sd_{channel}"] = why.contrast_sd[channel]
    rim, neighbours = why.without_rim, why.without_neighbours
    row["without_rim_found"], row["without_rim_change"] = rim.found, rim.target - why.answer.target
    row["without_neighbours_found"] = None if neighbours is None else neighbours.found
    row["without_neighbours_change"] = None if neighbours is None else neighbours.target - why.answer.target
    if why.anatomy is not None:
        row |= _shares(why.anatomy, channels)
    if why.stability is not None:
        row |= stability_row(why.stability)
    flips = [margin.verified for margin in why.margins.values() if margin.has_flip]
    row["why_flips"], row["why_verified"] = len(flips), sum(bool(one) for one in flips)
    row["why_passes"], row["why_seconds"] = why.passes, why.seconds
    return row


def _shares(anatomy: AnatomicalShapley, channels: Sequence[str]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for player in ((part, channel) for part in PARTS for channel in channels):
        name = "shapley_{}_{}".format(*player)
        row[name], row[f"{name}_se"] = (of.get(player, np.nan) for of in (anatomy.values, anatomy.errors))
        if anatomy.spread:
            row[f"{name}_fills"] = anatomy.spread.get(player, np.nan)
    row["shapley_total"], row["shapley_exact"] = anatomy.total, anatomy.exact
    row["shapley_leading"] = " ".join(anatomy.leading)
    return row
