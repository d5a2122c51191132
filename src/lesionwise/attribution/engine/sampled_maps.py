"""Maps from draws: group by group, draw by draw, until all are taken or a lesion's tolerance is met."""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from lesionwise.attribution.engine.draws import AbstractDraws
from lesionwise.attribution.engine.extremes import Extremes
from lesionwise.attribution.engine.learning import learn
from lesionwise.attribution.engine.moments import Moments, placed
from lesionwise.attribution.engine.noise import random_subset
from lesionwise.attribution.engine.regions import RegionSums
from lesionwise.attribution.engine.sampled import Sampled
from lesionwise.attribution.engine.sampling import accumulate, accumulate_difference
from lesionwise.attribution.engine.scene import Scene
from lesionwise.attribution.engine.site import Site
from lesionwise.attribution.engine.work import Work
from lesionwise.attribution.result import Attribution, MapPart, trimmed
from lesionwise.geometry.box import Box
from lesionwise.types import Reduction

_CHECK_EVERY = 10  # draws between two looks at the tolerance; fixed, so that grouping cannot change when a lesion stops


def sampled_maps(
    scene: Scene,
    work: Work,
    sites: Sequence[Site],
    draws: AbstractDraws,
    *,
    reduce: Reduction = "mean",
    max_voxels: int | None = None,
    chunk: int = 1,
    tolerance: float | None = None,
    details: dict[str, Any] | None = None,
) -> Iterator[tuple[int, Attribution]]:
    """The maps of all sites, group by group; a lesion whose tolerance is met is finished before the others."""
    by_number = {site.number: site for site in sites}
    for members in work.groups:
        group = [by_number[number] for number in members if number in by_number]
        started = time.perf_counter()
        work.workload.footprints.clear()
        states = []
        each_step = draws.count / (draws.count + 1)  # of a draw: the unperturbed pass counts as one more
        unperturbed = work.workload.run(partial(_values, scene, group, work, each_step), scene.grid.window)
        work.done(each_step)
        for site, values in zip(group, unperturbed, strict=True):
            chosen = _chosen(site, scene.seed, max_voxels) if reduce == "max" else ()
            state = Sampled(site, Moments(draws.antithetic), float(values.mean()), chosen=chosen, chunk=chunk)
            state.contributes = draws.are_contributions
            state.converged = None if tolerance is None else False
            if reduce == "mean" and not draws.are_contributions:
                state.sums = RegionSums.of(site, scene.padded)
            states.append(state)
        active = states
        shared = (time.perf_counter() - started) / max(len(states), 1)
        for state in states:
            state.seconds += shared
        taken = 0
        while taken < draws.count:
            began = time.perf_counter()
            checked = draws.count if tolerance is None else taken - taken % _CHECK_EVERY + _CHECK_EVERY
            numbers = range(taken, min(taken + _at_once(scene, active, work), checked, draws.count))
            accumulate(
                scene, active, draws, draw_numbers=numbers, reduce=reduce, workload=work.workload,
                progress_fn=partial(_tell, work, each_step * len(numbers)),
            )  # fmt: skip
            each = (time.perf_counter() - began) / max(len(active), 1)
            for state in active:
                state.seconds += each
            taken += len(numbers)
            work.done(each_step * len(numbers))
            if tolerance is not None and taken % _CHECK_EVERY == 0:
                for state in active:
                    state.converged = _is_settled(state, tolerance)
                for state in [s for s in active if s.converged]:
                    yield state.site.number, finished(scene, state, draws, reduce=reduce, details=details)
                active = [s for s in active if not s.converged]
            if not active:
                work.done(each_step * (draws.count - taken))
                break
        if work.correction is not None:
            _correct(scene, active, draws, work)
        for state in active:
            yield state.site.number, finished(scene, state, draws, reduce=reduce, details=details)


def _correct(scene: Scene, states: Sequence[Sampled], draws: AbstractDraws, work: Work) -> None:
    """Draws of what the exact derivative exceeds the one with held statistics by, at inputs of their own.

    They are independent of the other draws, so that errors add up (multilevel Monte Carlo, Giles 2008).
    """
    if work.correction is None:
        return
    full, began = work.correction, time.perf_counter()
    for state in states:
        state.correction = Sampled(state.site, Moments(draws.antithetic), state.target_mean)
        state.correction.sums = RegionSums.of(state.site, scene.padded)
    others = [state.correction for state in states if state.correction is not None]
    first, step = draws.count + draws.count % 2, 2 if draws.antithetic else 1
    for n in range(first, first + full.draws, step):
        accumulate_difference(
            (full.scene, scene), others, draws,
            draw_numbers=range(n, n + step), workloads=(full.workload, work.workload),
        )  # fmt: skip
        work.done(step)
    for state in states:
        state.seconds += (time.perf_counter() - began) / max(len(states), 1)


def finished(
    scene: Scene,
    state: Sampled,
    draws: AbstractDraws,
    *,
    reduce: Reduction = "mean",
    details: dict[str, Any] | None = None,
) -> Attribution:
    """The map on the scan's grid from the draws taken."""
    site, moments = state.site, state.moments
    facts: dict[str, Any] = {"reduce": reduce, **(details or {})}
    if reduce == "max":
        facts["max_voxels"] = None if len(state.chosen) == len(site.voxels) else len(state.chosen)
        facts["voxels"] = site.voxels[list(state.chosen)].tolist()
    if state.box is None:
        return _nothing_reached(scene, state, draws, facts)
    power = 0 if draws.are_contributions else 1
    mean, box = _summed(state, lambda m: m.mean, power) or _unreachable()
    variance = _summed(state, lambda m: m.variance_of_mean, 2 * power) if draws.is_random else None
    se = None if variance is None else np.sqrt(variance[0])
    extremes = _extremes(state, power) if draws.is_random else Extremes.plain(mean)
    sums = _region_sums(state, draws)
    trim = trimmed(box, mean)
    cut = (slice(None), *trim.relative_to(box).slices)
    return Attribution(
        data=np.ascontiguousarray(mean[cut]),
        box=trim,
        se=None if se is None else np.ascontiguousarray(se[cut]),
        n_samples=moments.draws,
        converged=state.converged,
        peak=extremes.peak,
        trough=extremes.trough,
        peak_se=extremes.peak_se,
        trough_se=extremes.trough_se,
        target_mean=state.target_mean,
        sign_flip_fraction=_flips(state, mean) if reduce == "max" else None,
        seconds=state.seconds,
        details=facts,
        parts=_parts(state, power),
        peak_freedom=extremes.freedom,
        region_sums=None if sums is None else sums[0],
        region_sums_se=None if sums is None or not draws.is_random else sums[1],
    )


def _region_sums(state: Sampled, draws: AbstractDraws) -> tuple[np.ndarray, np.ndarray] | None:
    """Sums over the site's regions and their errors; a correction's draws are independent, so that variances add up."""
    if state.sums is None or not state.sums.draws:
        return None
    total, se = state.sums.summary(antithetic=draws.antithetic)
    other = None if state.correction is None else state.correction.sums
    if other is not None and other.draws:
        more, its = other.summary(antithetic=draws.antithetic)
        total, se = total + more, np.sqrt(se**2 + its**2)
    return total, se


def _parts(state: Sampled, power: int) -> dict[str, MapPart]:
    """What was estimated with statistics held, and what the statistics add; nothing for maps of one part."""
    if state.correction is None:
        return {}
    found = {}
    for name, own in (("fixed", state), ("stat", state.correction)):
        if own.box is not None:
            mean, box = _on_scan(own, own.box, own.moments.mean, power)
            variance = own.moments.variance_of_mean
            se = None if variance is None else np.sqrt(_on_scan(own, own.box, variance, 2 * power)[0])
            found[name] = MapPart(mean, box, se, own.moments.draws)
    return found


def _nothing_reached(scene: Scene, state: Sampled, draws: AbstractDraws, facts: dict[str, Any]) -> Attribution:
    """The map of an instance that lies where the network does not look: zero."""
    channels = len(scene.padded)
    first = tuple(int(v) for v in state.site.voxels[0])
    box = Box(first, (first[0] + 1, first[1] + 1, first[2] + 1))  # type: ignore[arg-type]
    data = np.zeros((channels, 1, 1, 1), dtype=scene.padded.cpu().numpy().dtype)
    zero = np.zeros(channels)
    se = zero.copy() if draws.is_random else None
    flips = (0.0,) * channels if "voxels" in facts else None
    facts = {**facts, "outside_the_network": True}
    return Attribution(
        data, box, data.copy() if draws.is_random else None, state.moments.draws, state.converged, zero, zero.copy(),
        se, se, state.target_mean, flips, state.seconds, facts,
    )  # fmt: skip


def _values(scene: Scene, group: Sequence[Site], work: Work, steps: float) -> list[torch.Tensor]:
    logits = learn(scene, group, work.workload, progress_fn=partial(_tell, work, steps))
    return [scene.target.value(own, scene.spec) for own in logits]


def _tell(work: Work, steps: float, share: float) -> None:
    work.under_way(steps * share)


def _at_once(scene: Scene, states: Sequence[Sampled], work: Work) -> int:
    """Draws that fill one batch of windows."""
    batch = work.workload.schedule.batch
    if scene.runner.strategy == "local":
        return batch
    windows = {w for state in states for w in state.site.windows}
    return max(1, batch // max(len(windows), 1))


def _chosen(site: Site, seed: int, max_voxels: int | None) -> tuple[int, ...]:
    if max_voxels is None or len(site.voxels) <= max_voxels:
        return tuple(range(len(site.voxels)))
    wanted = {tuple(v) for v in random_subset(site.voxels, max_voxels, seed=seed).tolist()}
    return tuple(n for n, v in enumerate(site.voxels.tolist()) if tuple(v) in wanted)


def _summed(
    state: Sampled, read_fn: Callable[[Moments], torch.Tensor | None], power: int
) -> tuple[np.ndarray, Box] | None:
    """A figure of the draws, on the scan's grid; with a correction, the sum of the two. None if one is not known."""
    values, box = None if state.box is None else read_fn(state.moments), state.box
    other = state.correction
    if values is None or box is None:
        return None
    if other is not None and other.box is not None:
        more = read_fn(other.moments)
        if more is None:
            return None
        union = box.union(other.box)
        values, box = placed(values, box, union) + placed(more, other.box, union), union
    return _on_scan(state, box, values, power)


def _unreachable() -> tuple[np.ndarray, Box]:
    raise RuntimeError("A map needs a draw.")


def _on_scan(state: Sampled, box: Box, values: torch.Tensor, power: int) -> tuple[np.ndarray, Box]:
    if state.moves_later:
        values, box = state.site.pull_back(values, box, power=power)
    return values.detach().to("cpu").numpy(), box


def _is_settled(state: Sampled, tolerance: float) -> bool:
    if state.box is None:
        return True
    extremes = _extremes(state, 1)
    if extremes.peak_se is None or extremes.trough_se is None:
        return False
    values = np.concatenate([extremes.peak, extremes.trough])
    errors = np.concatenate([extremes.peak_se, extremes.trough_se])
    largest = int(np.argmax(np.abs(values)))
    return bool(errors[largest] <= tolerance * abs(values[largest]))


def _flips(state: Sampled, mean: np.ndarray) -> tuple[float, ...]:
    if state.moments.positive is None or state.box is None:
        return (0.0,) * len(mean)
    positive, _ = _on_scan(state, state.box, state.moments.positive.to(torch.float32), 0)
    share = positive / state.moments.draws
    flipped, weight = np.where(mean > 0, 1 - share, share), np.abs(mean)
    total = weight.sum(axis=(1, 2, 3))
    return tuple(((flipped * weight).sum(axis=(1, 2, 3)) / np.where(total > 0, total, 1)).tolist())


def _extremes(state: Sampled, power: int) -> Extremes:
    """Of the groups of draws; what a correction adds is added to each of them."""
    moments, box = state.moments, state.box
    if box is None:
        raise RuntimeError("A peak needs a draw.")
    other = state.correction
    added = None if other is None or other.box is None else (other.moments, other.box)
    union = box if added is None else box.union(added[1])
    groups = [
        _on_scan(state, union, placed(moments.group_mean(group), box, union), power)[0]
        for group in range(len(moments.group_counts))
    ]
    if added is None:
        return Extremes.of_groups(groups, moments.group_counts)
    rest, own = added
    spread = rest.variance_of_mean
    return Extremes.of_groups(
        groups,
        moments.group_counts,
        rest=_on_scan(state, union, placed(rest.mean, own, union), power)[0],
        rest_variance=None if spread is None else _on_scan(state, union, placed(spread, own, union), 2 * power)[0],
    )
