"""Why for the finished scans of an output folder: lesion by lesion, kept as they are finished, by several processes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import pandas as pd

from lesionwise.asking.scan import Scan
from lesionwise.cohort import CohortRunner, is_finished
from lesionwise.cohort.tables import TableUnit, read_frame
from lesionwise.cohort.unit import state_folder
from lesionwise.errors import InputError
from lesionwise.geometry.volume import ScanName
from lesionwise.instances.matching import select
from lesionwise.io.derivative import ScanFiles, ScanOutput
from lesionwise.io.written import require_usable
from lesionwise.models.reference import ModelRef
from lesionwise.why.finished import WrittenAs, finished_scan, settings_of, write_why
from lesionwise.why.lesions import USUAL, Effort, cost_of, row_of, why_lesion

WORK = "why"


@dataclass(frozen=True)
class WhyPlan:
    """What is asked of the finished scans in `out`: of which `lesions` ("all", "largest:5", "1,4"), and how much."""

    out: Path
    model: ModelRef
    lesions: str = "all"
    effort: Effort = USUAL
    device: str = "cpu"


@dataclass(frozen=True)
class _Listed:
    """A lesion by its row of a scan's table."""

    label: int
    outcome: str | None
    n_voxels: int
    source: str

    @classmethod
    def of(cls, row: dict[str, object]) -> "_Listed":
        outcome = row["outcome"] if isinstance(row["outcome"], str) else None
        cubic_mm = float(str(row["volume_mm3"]))  # in proportion to voxels, which is all that their order needs
        return cls(int(str(row["lesion"])), outcome, round(1000 * cubic_mm), "control" if outcome == "TN" else "")


def run_why(
    plan: WhyPlan, *, runner: CohortRunner, version: str, say: Callable[[str], None] | None = None
) -> dict[ScanName, pd.DataFrame]:
    """Asks about every chosen lesion that was not asked the same before, and writes `<stem>_why.tsv` per scan.

    Lesions are shared out over the runner's processes; each is kept as soon as it is finished, so that an interrupted run
    goes on. A scan that cannot be asked, wholly or in part, is in `runner.left_out` with the reason, and its table holds the
    lesions that could, and those that earlier runs asked the same about; the others go on. `say` is told the cost before,
    from one timed pass. Raises InputError if no scan can be used.
    """
    outputs, damaged = require_usable(plan.out)
    runner.left_out |= {one.name.stem: one.reason for one in damaged}
    chosen: dict[ScanName, list[_Listed]] = {}
    for output in outputs:
        try:
            chosen[output.name] = _chosen(output, plan)
        except InputError as error:  # numbers that only other scans have
            if len(outputs) == 1:
                raise
            runner.left_out[output.name.stem] = str(error)
    outputs = [output for output in outputs if output.name in chosen]
    tables = [_unit(plan, output, one.label, version) for output in outputs for one in chosen[output.name]]
    if say is not None:
        _announce(plan, [one for one in tables if not (runner.resume and is_finished(one.unit))], say)
    result = runner.run([table.unit for table in tables], stage=WORK)
    _scan.cache_clear()
    answered = [
        table for table, outcome in zip(tables, result.outcomes, strict=True) if outcome.status in ("done", "kept")
    ]
    asked = {table.path for table in tables}
    before = [_unit(plan, output, one.label, version) for output in outputs for one in _lesions_of(output)]
    answered += [one for one in before if one.path not in asked and is_finished(one.unit)]
    done = [(table.unit.name, read_frame(table.path)) for table in answered]
    found: dict[ScanName, pd.DataFrame] = {}
    for output in outputs:
        rows = [row for name, frame in done if name == output.name for row in frame.to_dict(orient="records")]
        rows.sort(key=lambda row: int(row["lesion"]))
        if rows or not chosen[output.name]:
            table = found[output.name] = pd.DataFrame(rows, columns=None if rows else ["lesion", "outcome"])
            write_why(ScanFiles(plan.out, output.name), table, WrittenAs.of(output))
    return found


def _lesions_of(output: ScanOutput) -> list[_Listed]:
    return [_Listed.of(row) for row in output.lesions.to_dict(orient="records")]


def _chosen(output: ScanOutput, plan: WhyPlan) -> list[_Listed]:
    chosen = select(_lesions_of(output), plan.lesions, seed=settings_of(plan.out).seed)
    return [one for one in chosen if one.outcome != "TN"]


def _unit(plan: WhyPlan, output: ScanOutput, label: int, version: str) -> TableUnit:
    name = output.name
    return TableUnit.of(
        partial(_asked, plan, name, label),
        state_folder(plan.out, WORK) / "rows" / f"{name.stem}_{_part(label)}.parquet",
        work=WORK,
        name=name,
        out=plan.out,
        part=_part(label),
        depends_on=(
            plan.model.fingerprint,
            output.facts.get("InstancesKey"),
            settings_of(plan.out).key,
            plan.effort,
            version,
        ),
    )


def _asked(plan: WhyPlan, name: ScanName, label: int) -> pd.DataFrame:
    """What any process computes of one lesion."""
    scan = _scan(plan, name)
    (instance,) = (one for one in scan.instances if one.label == label)
    return pd.DataFrame([row_of(why_lesion(scan, instance, effort=plan.effort), scan.channels)])


@lru_cache(maxsize=1)
def _scan(plan: WhyPlan, name: ScanName) -> Scan:
    """The scan that this process is at."""
    return finished_scan(plan.out, name, plan.model.load(plan.device), lesions="all", device=plan.device)


def _announce(plan: WhyPlan, todo: Sequence[TableUnit], say: Callable[[str], None]) -> None:
    """Says what is about to be spent, from a timed pass of the first scan that can be asked."""
    names = list(dict.fromkeys(table.unit.name for table in todo))
    for name in names:
        try:
            scan = _scan(plan, name)
        except InputError:
            continue
        parts = {table.unit.part for table in todo if table.unit.name == name}
        text = cost_of(scan, [one for one in scan.instances if _part(one.label) in parts], plan.effort)
        say(f"{text} That is {name.stem}, one of {len(names)} scans." if len(names) > 1 else text)
        return


def _part(label: int) -> str:
    return f"lesion-{label}"
