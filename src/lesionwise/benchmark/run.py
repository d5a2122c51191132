"""Runs the benchmark: patients rule by rule, kept as they are finished, then the tables, the figure and what was found."""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lesionwise.benchmark.contestants import Contestant, contestants
from lesionwise.benchmark.judge import judge
from lesionwise.benchmark.networks import network_of, shipped
from lesionwise.benchmark.tables import Benchmark, tabulate
from lesionwise.charts.saving import save_chart
from lesionwise.cohort import CohortRunner
from lesionwise.cohort.left_out import LeftOutList
from lesionwise.cohort.tables import TableUnit, below_each_other, read_kept
from lesionwise.errors import InputError
from lesionwise.fingerprint import fingerprint
from lesionwise.geometry.volume import ScanName
from lesionwise.io.derivative import write_json, write_table
from lesionwise.io.files import write_text

WORK = "benchmark"
SEED_STRIDE = 1_000_003
"""Patients of different seeds do not meet as long as there are fewer than this."""
PACKAGES = ("torch", "monai", "captum", "numpy", "scipy", "pandas")


@dataclass(frozen=True)
class BenchmarkPlan:
    """What is judged by what: `methods` as in `contestants` (none: everybody), `rules` by name (those whose network ships)."""

    methods: tuple[str, ...] = ()
    rules: tuple[str, ...] = field(default_factory=shipped)
    subjects: int = 8
    seed: int = 0
    samples: int = 8
    measures: bool = True

    def __post_init__(self) -> None:
        for rule in self.rules:
            network_of(rule)
        if self.subjects < 1 or self.samples < 1 or self.seed < 0:
            raise InputError(
                f"Expected at least one patient and one sample and a seed from 0, found {self.subjects}, {self.samples}, "
                f"{self.seed}."
            )


def run_benchmark(
    plan: BenchmarkPlan, out: Path | str, *, version: str, runner: CohortRunner | None = None
) -> Benchmark | None:
    """Judges every method by every rule on `plan.subjects` new patients and writes OUT: benchmark.tsv, measures.tsv,
    verification.tsv, lesions.tsv, finding.md, the figure (PDF, PNG, plotly JSON), config.json, left_out.tsv.

    Rows of each patient and rule are kept under a key over networks, methods and settings, so that an interrupted run
    goes on. Patient n of a seed is the same whatever their number. A share (`runner.shard`) only computes, and gives None.
    Raises InputError for a method that does not exist.
    """
    out, runner = Path(out).resolve(), runner or CohortRunner()
    chosen = contestants(plan.methods, samples=plan.samples)
    tables = [_unit(plan, chosen, rule, number, out, version) for number in range(plan.subjects) for rule in plan.rules]
    mine = runner.shard.of(tables)
    listed = LeftOutList(out, WORK, out / "left_out.tsv")
    rows = below_each_other(read_kept(mine, runner.run([one.unit for one in mine], stage=WORK, listed=listed)))
    if not runner.shard.is_whole:
        return None
    if rows.empty:
        raise InputError(
            f"Expected patients to judge by, but all were left out: {next(iter(runner.left_out.values()))}"
        )
    found = tabulate(rows, chosen, np.random.default_rng(plan.seed))
    write_json(out / "config.json", _config(plan, chosen, version))
    _write(found, out)
    return found


def _unit(
    plan: BenchmarkPlan, chosen: Sequence[Contestant], rule: str, number: int, out: Path, version: str
) -> TableUnit:
    subject, seed = f"planted{number + 1:03d}", plan.seed * SEED_STRIDE + number
    return TableUnit.of(
        partial(_rows, rule, subject, seed, plan),
        out / "rows" / f"sub-{subject}_rule-{rule}.parquet",
        work=WORK,
        name=ScanName(subject),
        out=out,
        part=f"rule-{rule}",
        depends_on=(network_of(rule).fingerprint, version, seed, plan.measures, _methods_key(chosen)),
    )


def _rows(rule: str, subject: str, seed: int, plan: BenchmarkPlan) -> pd.DataFrame:
    """What any process computes of one patient and rule."""
    return judge(rule, subject, seed, contestants(plan.methods, samples=plan.samples), measures=plan.measures)


def _methods_key(chosen: Sequence[Contestant]) -> str:
    return fingerprint([(one.name, one.kind, one.target, one.method) for one in chosen])


def _config(plan: BenchmarkPlan, chosen: Sequence[Contestant], version: str) -> Mapping[str, Any]:
    """All that the figures depend on."""
    installed = {}
    for name in PACKAGES:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "Lesionwise": version,
        "Plan": asdict(plan),
        "Networks": {rule: network_of(rule).fingerprint for rule in plan.rules},
        "Methods": {one.name: _settings(one) for one in chosen},
        "Versions": {"python": platform.python_version(), **installed},
    }


def _settings(one: Contestant) -> dict[str, Any]:
    method: Any = one.method
    values: dict[str, Any] = asdict(method) if is_dataclass(method) and not isinstance(method, type) else {}
    plain = {k: v for k, v in values.items() if v is None or isinstance(v, str | int | float | bool)}
    return {"Family": one.family, "Target": one.target, **plain}


def _write(found: Benchmark, out: Path) -> None:
    for name, table in found.tables.items():
        write_table(out / f"{name}.tsv", table)
    save_chart(found.chart, out)
    write_text(
        out / "finding.md",
        f"# Instance attribution with planted truth\n\n{found.text}\n\n![{found.chart.title}]({found.chart.name}.png)\n"
        f"{found.chart.legend}\n",
    )
