"""Runs an experiment over scans: rows scan by scan, kept as they are finished, then the finding and its figures."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lesionwise.asking.scan import Scan
from lesionwise.charts.chart import Chart
from lesionwise.charts.saving import save_chart
from lesionwise.cohort import CohortRunner
from lesionwise.cohort.left_out import LeftOutList
from lesionwise.cohort.tables import TableUnit, below_each_other, read_kept
from lesionwise.errors import InputError
from lesionwise.experiments.experiment import Experiment, Finding
from lesionwise.experiments.registry import experiment_named
from lesionwise.geometry.volume import Case, ScanName
from lesionwise.instances.matching import select
from lesionwise.io.bids import BidsScan, LeftOut
from lesionwise.io.cases import read_scan_case
from lesionwise.io.derivative import ScanFiles, write_table
from lesionwise.io.files import write_text
from lesionwise.models.reference import ModelRef, opened
from lesionwise.segmenter import AbstractSegmenter
from lesionwise.units import Settings, content_key, explain_case, find_case

FOLDER = "experiments"

ScanSource = Case | BidsScan | Callable[[], Case]
"""A scan in memory, in a data set, or made by a function."""


def run_experiment(
    name: str,
    model: AbstractSegmenter | ModelRef,
    scans: Iterable[ScanSource],
    out: Path | str,
    *,
    settings: Settings | None = None,
    options: Mapping[str, Any] | None = None,
    runner: CohortRunner | None = None,
    missing: Sequence[LeftOut] = (),
    resample: bool = False,
) -> Finding:
    """Rows of every scan, then the finding, under `out/experiments/NAME/`.

    Scans are explained through the same units of work as everywhere (finished ones in `out` are read back). Each scan's
    rows are kept in `rows/<scan>.parquet` under a key over its content, the model, settings and options, so that an
    interrupted run redoes only what is missing. `scans` may hold cases, functions that read one, and scans of a data
    set. Experiments that need no maps find the lesions without explaining them. `runner` says on what processes, and
    collects the scans left out, those in `missing` included; they are listed in `left_out.tsv`.

    Raises InputError for an unknown experiment or option.
    """
    settings, runner = settings or Settings(), runner or CohortRunner()
    rows = collect_rows(
        name, model, scans, out, settings=settings, options=options, runner=runner, missing=missing, resample=resample
    )
    if not runner.shard.is_whole:
        return rows_of_share(runner)
    folder = Path(out) / FOLDER / name
    return save_finding(experiment_named(name), rows, folder, seed=settings.seed, left_out=runner.left_out)


def rows_of_share(runner: CohortRunner) -> Finding:
    """What a share of a cohort ends with: no finding, which is of all scans."""
    share = f"{runner.shard.index}/{runner.shard.count}"
    return Finding(f"The rows of share {share} are kept; the same command without --shard puts the finding together.")


def collect_rows(
    name: str,
    model: AbstractSegmenter | ModelRef,
    scans: Iterable[ScanSource],
    out: Path | str,
    *,
    settings: Settings,
    runner: CohortRunner,
    options: Mapping[str, Any] | None = None,
    missing: Sequence[LeftOut] = (),
    resample: bool = False,
) -> pd.DataFrame:
    """The rows of all scans, kept scan by scan as `run_experiment` says; empty if no scan gave any."""
    chosen, out = _options(experiment_named(name), options or {}), Path(out)
    folder, tables = out / FOLDER / name, []
    for source in runner.shard.of(list(scans)):
        scan, inputs, content = _identity(source)
        table = TableUnit.of(
            partial(scan_rows, name, model, source, out, settings, chosen, resample=resample),
            folder / "rows" / f"{scan.stem}.parquet",
            work=f"experiment {name}",
            name=scan,
            out=out,
            inputs=inputs,
            depends_on=(model.fingerprint, settings.key, sorted(chosen.items()), *content, resample),
        )
        tables.append(table)
    listed = LeftOutList(out, f"experiment {name}", folder / "left_out.tsv")
    units = [table.unit for table in tables]
    return below_each_other(read_kept(tables, runner.run(units, stage="rows", listed=listed, missing=missing)))


def scan_rows(
    name: str,
    model: AbstractSegmenter | ModelRef,
    source: ScanSource,
    out: Path,
    settings: Settings,
    options: Mapping[str, Any],
    *,
    resample: bool = False,
) -> pd.DataFrame:
    """One scan's rows: what a unit of work computes."""
    experiment, segmenter, case = (
        experiment_named(name),
        opened(model, settings.device),
        _case(source, resample=resample),
    )
    if experiment.needs_maps:
        explained, wanted = explain_case(segmenter, case, settings, out=out), None
    else:
        _, _, explained = find_case(segmenter, case, settings, known=ScanFiles(out, case.name))
        picked = select(list(explained.instances), settings.lesions, seed=settings.seed)
        wanted = tuple(one.label for one in picked if one.source != "control")
    return experiment.rows_fn(Scan(segmenter.for_case(case), explained, settings.device, wanted), **options)


def save_finding(
    experiment: Experiment,
    rows: pd.DataFrame,
    folder: Path,
    *,
    seed: int = 0,
    left_out: Collection[str] = (),
) -> Finding:
    """From the rows of all scans to `finding.md`, `<table>.tsv` and the figures (PDF, PNG, plotly JSON).

    How many scans are in `left_out` is said below the finding.
    """
    if len(rows):
        finding = experiment.group_fn(rows, np.random.default_rng(seed))
        names = rows["model"].unique()
        if len(names) == 1:
            finding = replace(finding, charts=tuple(_named(chart, str(names[0])) for chart in finding.charts))
    else:
        finding = Finding("No scan gave any rows: no lesion was found.")
    write_table(folder / f"{experiment.name}_rows.tsv", rows)
    for name, table in finding.tables.items():
        write_table(folder / f"{name}.tsv", table)
    for chart in finding.charts:
        save_chart(chart, folder)
    captions = "".join(f"\n![{chart.title}]({chart.name}.png)\n{chart.legend}\n" for chart in finding.charts)
    count = f"{len(left_out)} scan{' was' if len(left_out) == 1 else 's were'}"
    without = f"\n{count} left out; the reasons are in left_out.tsv.\n" if left_out else ""
    write_text(folder / "finding.md", f"# {experiment.question}\n\n{finding.text}\n{without}{captions}")
    return finding


def _named(chart: Chart, network: str) -> Chart:
    """A figure of one network, which its caption names."""
    return replace(chart, sample=", ".join(part for part in (f"Network: {network}", chart.sample) if part))


def _identity(source: ScanSource) -> tuple[ScanName, dict[str, Path], tuple[str, ...]]:
    """A scan's name and what tells whether it changed: its files, or its content where it is none of a data set."""
    if isinstance(source, BidsScan):
        return source.name, source.files, (repr(source.reference_rule),)
    case = _case(source)
    return case.name, {}, (content_key(case),)


def _case(source: ScanSource, *, resample: bool = False) -> Case:
    if isinstance(source, BidsScan):
        return read_scan_case(source, resample=resample)
    return source if isinstance(source, Case) else source()


def _options(experiment: Experiment, given: Mapping[str, Any]) -> dict[str, Any]:
    unknown = sorted(set(given) - set(experiment.defaults))
    if unknown:
        raise InputError(
            f"The experiment {experiment.name} has no option {', '.join(unknown)}; it has "
            f"{', '.join(experiment.defaults) or 'none'}."
        )
    chosen = {**experiment.defaults, **{name: _as_default(experiment.defaults[name], v) for name, v in given.items()}}
    if experiment.check_fn is not None:
        experiment.check_fn(chosen)
    return chosen


def _as_default(default: Any, value: Any) -> Any:
    """A list as people write it on a command line (`zero,blur` or one number), where the default is a tuple."""
    if not isinstance(default, tuple) or isinstance(value, list | tuple):
        return value
    parts = value.split(",") if isinstance(value, str) else [value]
    kind = type(default[0])
    try:
        return tuple(_flag(part) if kind is bool else kind(part) for part in parts)
    except ValueError:
        raise InputError(f"Expected values like {default[0]!r} separated by commas, found {value!r}.") from None


def _flag(value: Any) -> bool:
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if str(value).strip().lower() not in words:
        raise ValueError(value)
    return words[str(value).strip().lower()]
