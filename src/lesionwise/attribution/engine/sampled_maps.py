"""Maps from draws: group by group, draw by draw, until all are taken or a lesion's tolerance is met."""

import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from lesionwise.attribution.engine.draws import AbstractDraws
from lesionwise.attribution.engine.extremes import Extremes
from lesionwise.attribution.engine.moments import Moments
from lesionwise.attribution.engine.noise import random_subset
from lesionwise.attribution.engine.sampling import Sampled, accumulate, learn
from lesionwise.attribution.engine.scene import Scene
from lesionwise.attribution.engine.site import Site
from lesionwise.attribution.engine.work import Work
from lesionwise.attribution.result import Attribution, trimmed
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
        unperturbed = work.workload.run(partial(_values, scene, group, work), scene.grid.window)
        for site, values in zip(group, unperturbed, strict=True):
            chosen = _chosen(site, scene.seed, max_voxels) if reduce == "max" else ()
            state = Sampled(site, Moments(draws.antithetic), float(values.mean()), chosen=chosen, chunk=chunk)
            state.converged = None if tolerance is None else False
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
            accumulate(scene, active, draws, draw_numbers=numbers, reduce=reduce, workload=work.workload)
            each = (time.perf_counter() - began) / max(len(active), 1)
            for state in active:
                state.seconds += each
            taken += len(numbers)
            work.done(len(numbers))
            if tolerance is not None and taken % _CHECK_EVERY == 0:
                for state in active:
                    state.converged = _is_settled(state, tolerance)
                for state in [s for s in active if s.converged]:
                    yield state.site.number, finished(scene, state, draws, reduce=reduce, details=details)
                active = [s for s in active if not s.converged]
            if not active:
                work.done(draws.count - taken)
                break
        for state in active:
            yield state.site.number, finished(scene, state, draws, reduce=reduce, details=details)


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
    mean, box = _on_scan(state, moments.mean, power)
    variance = moments.variance_of_mean if draws.is_random else None
    se = None if variance is None else np.sqrt(_on_scan(state, variance, 2 * power)[0])
    extremes = _extremes(state, power) if draws.is_random else Extremes.plain(mean)
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
    )


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


def _values(scene: Scene, group: Sequence[Site], work: Work) -> list[torch.Tensor]:
    return [scene.target.value(logits, scene.spec) for logits in learn(scene, group, work.workload)]


def _at_once(scene: Scene, states: Sequence[Sampled], work: Work) -> int:
    """Draws that fill one batch of windows."""
    if scene.runner.strategy == "local":
        return work.workload.batch
    windows = {w for state in states for w in state.site.windows}
    return max(1, work.workload.batch // max(len(windows), 1))


def _chosen(site: Site, seed: int, max_voxels: int | None) -> tuple[int, ...]:
    if max_voxels is None or len(site.voxels) <= max_voxels:
        return tuple(range(len(site.voxels)))
    wanted = {tuple(v) for v in random_subset(site.voxels, max_voxels, seed=seed).tolist()}
    return tuple(n for n, v in enumerate(site.voxels.tolist()) if tuple(v) in wanted)


def _on_scan(state: Sampled, values: torch.Tensor, power: int) -> tuple[np.ndarray, Box]:
    if state.box is None:
        raise RuntimeError("A map needs a place.")
    box = state.box
    if state.site.moves_only:
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
    if state.moments.positive is None:
        return (0.0,) * len(mean)
    positive, _ = _on_scan(state, state.moments.positive.to(torch.float32), 0)
    share = positive / state.moments.draws
    flipped, weight = np.where(mean > 0, 1 - share, share), np.abs(mean)
    total = weight.sum(axis=(1, 2, 3))
    return tuple(((flipped * weight).sum(axis=(1, 2, 3)) / np.where(total > 0, total, 1)).tolist())


def _extremes(state: Sampled, power: int) -> Extremes:
    halves = [half for half in state.moments.halves if half.mean is not None]
    means, variances = [], []
    for half in halves:
        if half.mean is not None:
            means.append(_on_scan(state, half.mean, power)[0])
        spare = half.variance_of_mean
        variances.append(None if spare is None else _on_scan(state, spare, 2 * power)[0])
    return Extremes.split(means, variances)
