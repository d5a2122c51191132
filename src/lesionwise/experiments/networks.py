"""One experiment over several networks: each explained on its own, then one finding that holds them side by side."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lesionwise.charts.chart import Chart, Mark, Panel, Violin
from lesionwise.cohort import CohortRunner
from lesionwise.cohort.tables import below_each_other
from lesionwise.errors import InputError
from lesionwise.experiments.experiment import Experiment, Finding
from lesionwise.experiments.registry import experiment_named
from lesionwise.experiments.run import FOLDER, ScanSource, collect_rows, rows_of_share, save_finding
from lesionwise.io.bids import LeftOut
from lesionwise.models.reference import ModelRef
from lesionwise.segmenter import AbstractSegmenter
from lesionwise.units import Settings

PUBLISHED = " Published: "
"""What begins the last sentence of a finding; said once for all networks."""


def run_networks(
    name: str,
    models: Mapping[str, AbstractSegmenter | ModelRef],
    scans: Iterable[ScanSource],
    out: Path | str,
    *,
    settings: Mapping[str, Settings],
    options: Mapping[str, Any] | None = None,
    runner: CohortRunner | None = None,
    missing: Sequence[LeftOut] = (),
    resample: bool = False,
) -> Finding:
    """The same experiment for every network; `models` and `settings` have the networks' names as keys.

    Each network's scans, rows and finding lie in `out/<network>/`, as if it had been run alone; the finding of all, with
    a row of panels and rows of every table for each network, in `out/experiments/NAME/`. Raises InputError for two
    networks whose names give one folder.
    """
    experiment, out, runner = experiment_named(name), Path(out), runner or CohortRunner()
    folders = {key: folder_of(key) for key in models}
    if len(set(folders.values())) < len(folders):
        raise InputError(f"Expected networks with different names, found {', '.join(models)}.")
    known = list(scans)
    frames = []
    for key, model in models.items():
        say = None if runner.announce_fn is None else _named(runner.announce_fn, key)
        own, mine = out / folders[key], replace(runner, announce_fn=say, left_out={})
        rows = collect_rows(
            name,
            model,
            known,
            own,
            settings=settings[key],
            options=options,
            runner=mine,
            missing=missing,
            resample=resample,
        )
        runner.left_out |= mine.left_out
        if not runner.shard.is_whole:
            continue
        if len(rows):
            rows = rows.assign(model=key)
        save_finding(experiment, rows, own / FOLDER / name, seed=settings[key].seed, left_out=mine.left_out)
        frames.append(rows)
    if not runner.shard.is_whole:
        return rows_of_share(runner)
    rows = below_each_other(frames)
    side_by_side = replace(experiment, group_fn=lambda frame, rng: compare(experiment, frame, rng))
    seed = next(iter(settings.values())).seed
    return save_finding(side_by_side, rows, out / FOLDER / name, seed=seed, left_out=runner.left_out)


def compare(experiment: Experiment, rows: pd.DataFrame, rng: np.random.Generator) -> Finding:
    """The findings of all networks in `rows["model"]` as one: sentences by network, panels below each other, tables joined."""
    names = list(dict.fromkeys(rows["model"])) if len(rows) else []
    if len(names) < 2:
        return experiment.group_fn(rows, rng)
    found = {str(name): experiment.group_fn(rows[rows["model"] == name].reset_index(drop=True), rng) for name in names}
    texts, tail = [], ""
    for name, one in found.items():
        body, mark, published = one.text.partition(PUBLISHED)
        tail = f"{mark}{published}" if mark else tail
        texts.append(f"{name}: {body}")
    charts: dict[str, list[tuple[str, Chart]]] = {}
    tables: dict[str, list[pd.DataFrame]] = {}
    for name, one in found.items():
        for chart in one.charts:
            charts.setdefault(chart.name, []).append((name, chart))
        for key, table in one.tables.items():
            named = table if "model" in table else table.assign(model=name)
            tables.setdefault(key, []).append(named[["model", *(c for c in named.columns if c != "model")]])
    joined = {key: pd.concat([t for t in parts if len(t)] or parts, ignore_index=True) for key, parts in tables.items()}
    return Finding(" ".join(texts) + tail, tuple(_below_each_other(parts) for parts in charts.values()), joined)


def folder_of(name: str) -> str:
    """A network's name as the name of a folder.

    >>> folder_of("3D U-Net, fold 0")
    '3D-U-Net-fold-0'
    """
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "network"


def _below_each_other(parts: list[tuple[str, Chart]]) -> Chart:
    """The same figure of several networks: a row (or as many as it has) of panels for each."""
    first = parts[0][1]
    columns = max(chart.grid[1] for _, chart in parts)
    panels: list[Panel | None] = []
    for name, chart in parts:
        own = [panel and replace(panel, title=_titled(name, panel), marks=_unlinked(panel)) for panel in chart.panels]
        panels += own + [None] * (-len(own) % columns)
    samples = [f"{name}: {chart.sample}" for name, chart in parts if chart.sample]
    same = len({chart.sample for _, chart in parts}) == 1
    sample = f"{first.sample}, each network" if same and first.sample else "; ".join(samples)
    return replace(first, panels=panels, columns=columns, sample=sample)


def _titled(name: str, panel: Panel) -> str:
    return f"{name}: {panel.title}" if panel.title else name


def _unlinked(panel: Panel) -> list[Mark]:
    """The marks without their lesions: a lesion's number means another lesion for another network."""
    return [replace(mark, lesions=None) if isinstance(mark, Violin) else mark for mark in panel.marks]


def _named(announce_fn: Callable[[str], None], name: str) -> Callable[[str], None]:
    return lambda sentence: announce_fn(f"{name}: {sentence}")
