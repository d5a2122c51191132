"""Studies run by a clean process of their own, so that they can be killed: what `multiprocessing`'s fork server runs.

The server imports this module once, alone and without threads; each run is forked from it. (Forking a test process that
has threads - a cluster's, a browser's - can hang.)
"""

import os
import signal
from pathlib import Path
from typing import Any

import torch

from lesionwise.attribution import SmoothGrad
from lesionwise.models.reference import ModelRef
from lesionwise.models.zoo import load_model
from lesionwise.study.participant import make_tasks, run_participant
from lesionwise.study.plan import plan_study
from lesionwise.study.unit import TriageRef
from lesionwise.triage.model import load_triage
from lesionwise.units import Settings

torch.set_num_threads(1)


def plan_run(cohort: Path, network: Path, out: Path, **options: Any) -> tuple[Any, Any]:
    """The plan and the tasks of a study of `cohort` with `network`."""
    model = load_model(network)
    samples, bids = options.pop("samples", 4), options.pop("bids", None)
    triage = options.pop("triage", None)
    resume, participants, shard = (
        options.pop("resume", True),
        options.pop("participants", None),
        options.pop("shard", None),
    )
    plan = plan_study(bids or cohort, out, channels=model.spec.channels, participants=participants, shard=shard)
    tasks = make_tasks(
        plan,
        model=ModelRef(str(network), model.fingerprint),
        settings=Settings(method=SmoothGrad(n_samples=samples), **options),
        resume=resume,
        memory_bytes=1 << 30,
        triage=None if triage is None else TriageRef(str(triage), load_triage(triage).fingerprint),
    )
    return plan, tasks


def run(cohort: Path, network: Path, out: Path, report: Any = None, **options: Any) -> None:
    """Runs the study; with `report` puts the process and what became of each scan there."""
    result = run_participant(*plan_run(cohort, network, out, **options))
    if report is not None:
        report.put((os.getpid(), [(outcome.stem, outcome.status) for outcome in result.outcomes]))


def die_at_rename(cohort: Path, network: Path, out: Path, step: int) -> None:
    """Runs the study of one participant, killed when the file number `step` is about to get its final name."""
    seen, replace = 0, os.replace

    def dying(source: Any, target: Any) -> None:
        nonlocal seen
        if seen == step:
            os.kill(os.getpid(), signal.SIGKILL)
        seen += 1
        replace(source, target)

    os.replace = dying  # type: ignore[assignment]
    run(cohort, network, out, participants=["01"])
