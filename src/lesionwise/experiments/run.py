"""Runs an experiment over scans: rows scan by scan, kept as they are finished, then the finding and its figures."""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lesionwise.charts.chart import Chart
from lesionwise.charts.saving import save_chart
from lesionwise.errors import InputError
from lesionwise.experiments.experiment import Experiment, Finding
from lesionwise.experiments.registry import experiment_named
from lesionwise.experiments.scan import Scan
from lesionwise.geometry.volume import Case
from lesionwise.instances.matching import select
from lesionwise.io.derivative import ScanFiles, write_table
from lesionwise.io.files import write_text, write_whole
from lesionwise.segmenter import AbstractSegmenter
from lesionwise.units import Explained, Settings, explain_case, find_lesions, model_facts, predict_case

FOLDER = "experiments"


def run_experiment(
    name: str,
    model: AbstractSegmenter,
    cases: Iterable[Case | Callable[[], Case]],
    out: Path | str,
    *,
    settings: Settings | None = None,
    options: Mapping[str, Any] | None = None,
    resume: bool = True,
    announce_fn: Callable[[str], None] | None = None,
) -> Finding:
    """Rows of every case, then the finding, under `out/experiments/NAME/`.

    Scans are explained through the same units of work as everywhere (finished ones in `out` are read back). Each scan's
    rows are kept in `rows/<scan>.parquet` with a key over model, scan, lesions, settings and options, so that an
    interrupted run redoes only what is missing. `cases` may hold functions that read a case, so that one is in memory at
    a time. Experiments that need no maps find the lesions without explaining them.

    Raises InputError for an unknown experiment or option.
    """
    settings = settings or Settings()
    rows = collect_rows(
        name, model, cases, out, settings=settings, options=options, resume=resume, announce_fn=announce_fn
    )
    return save_finding(experiment_named(name), rows, Path(out) / FOLDER / name, seed=settings.seed)


def collect_rows(
    name: str,
    model: AbstractSegmenter,
    cases: Iterable[Case | Callable[[], Case]],
    out: Path | str,
    *,
    settings: Settings,
    options: Mapping[str, Any] | None = None,
    resume: bool = True,
    announce_fn: Callable[[str], None] | None = None,
) -> pd.DataFrame:
    """The rows of all cases, kept scan by scan as `run_experiment` says; empty if no scan gave any."""
    experiment = experiment_named(name)
    chosen = _options(experiment, options or {})
    folder = Path(out) / FOLDER / name
    say = announce_fn or (lambda sentence: None)
    frames, known, spent = [], list(cases), []
    for number, entry in enumerate(known, start=1):
        began = time.perf_counter()
        case = entry if isinstance(entry, Case) else entry()
        rows, computed = _rows(experiment, model, case, settings, folder, Path(out), chosen, resume=resume, say=say)
        frames.append(rows)
        if computed:
            spent.append(time.perf_counter() - began)
            say(_progress(number, len(known), spent))
    filled = [frame for frame in frames if len(frame)]
    return pd.concat(filled, ignore_index=True) if filled else pd.DataFrame()


def save_finding(experiment: Experiment, rows: pd.DataFrame, folder: Path, *, seed: int = 0) -> Finding:
    """From the rows of all scans to `finding.md`, `<table>.tsv` and the figures (PDF, PNG, plotly JSON)."""
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
    write_text(folder / "finding.md", f"# {experiment.question}\n\n{finding.text}\n{captions}")
    return finding


def _named(chart: Chart, network: str) -> Chart:
    """A figure of one network, which its caption names."""
    return replace(chart, sample=", ".join(part for part in (f"Network: {network}", chart.sample) if part))


def unexplained(
    model: AbstractSegmenter, case: Case, settings: Settings, *, known: ScanFiles | None = None
) -> Explained:
    """A scan with its lesions found but not explained; `known` names an output folder to read the prediction from."""
    named, model = model, model.for_case(case)
    predicted = predict_case(model, case, device=settings.device, known=known)
    mask, instances, notes = find_lesions(model, case, predicted.probability, settings)
    voxels = hashlib.sha256()
    for one in instances:
        voxels.update(np.ascontiguousarray(one.voxels).tobytes() + str((one.label, one.outcome)).encode())
    return Explained(
        case=case,
        settings=settings,
        model=model_facts(named, used=model),
        prediction=predicted.probability,
        mask=mask,
        instances=tuple(instances),
        maps={},
        lesions=pd.DataFrame(),
        columns={},
        notes=(*case.notes, *notes),
        keys={"PredictionKey": predicted.key, "InstancesKey": voxels.hexdigest()[:24]},
    )


def _rows(
    experiment: Experiment,
    model: AbstractSegmenter,
    case: Case,
    settings: Settings,
    folder: Path,
    out: Path,
    options: Mapping[str, Any],
    *,
    resume: bool,
    say: Callable[[str], None],
) -> tuple[pd.DataFrame, bool]:
    """A scan's rows, and whether they were computed now."""
    if experiment.needs_maps:
        explained, wanted = explain_case(model, case, settings, out=out, announce_fn=say), None
    else:
        explained = unexplained(model, case, settings, known=ScanFiles(out, case.name))
        picked = select(list(explained.instances), settings.lesions, seed=settings.seed)
        wanted = tuple(one.label for one in picked if one.source != "control")
    key = _key(experiment, explained.keys, settings, options)
    path, note = folder / "rows" / f"{case.name.stem}.parquet", folder / "rows" / f"{case.name.stem}.json"
    if resume and path.is_file() and _stored_key(note) == key:
        say(f"{case.name.stem}: rows of {experiment.name} are there already.")
        return pd.read_parquet(path), False
    say(f"{case.name.stem}: {experiment.name} ...")
    rows = experiment.rows_fn(Scan(model.for_case(case), explained, settings.device, wanted), **options)
    with write_whole(path) as temporary:
        rows.to_parquet(temporary)
    write_text(note, json.dumps({"Key": key}))
    return rows, True


def _progress(done: int, of: int, spent: list[float]) -> str:
    """How far the run is, and how long the rest takes at the pace of the scans computed so far."""
    left = (of - done) * sum(spent) / len(spent)
    pace = f"{left / 3600:.1f} h" if left >= 5400 else f"{left / 60:.0f} min" if left >= 90 else f"{left:.0f} s"
    return f"{done} of {of} scans done" + (f", about {pace} left." if done < of else ".")


def _options(experiment: Experiment, given: Mapping[str, Any]) -> dict[str, Any]:
    unknown = sorted(set(given) - set(experiment.defaults))
    if unknown:
        raise InputError(
            f"The experiment {experiment.name} has no option {', '.join(unknown)}; it has "
            f"{', '.join(experiment.defaults) or 'none'}."
        )
    return {**experiment.defaults, **{name: _as_default(experiment.defaults[name], v) for name, v in given.items()}}


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


def _key(experiment: Experiment, keys: Mapping[str, str], settings: Settings, options: Mapping[str, Any]) -> str:
    text = repr((experiment.name, sorted(keys.items()), settings, sorted(options.items())))
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _stored_key(path: Path) -> str | None:
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["Key"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
