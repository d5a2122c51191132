"""One patient before one rule's network: what was verified, how every method did, and how every measure did."""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from lesionwise.asking.scan import Scan
from lesionwise.attribution.result import Attribution
from lesionwise.benchmark.contestants import Contestant, kind_of
from lesionwise.benchmark.networks import network_of
from lesionwise.benchmark.rules import rule_named
from lesionwise.benchmark.scores import scores_of
from lesionwise.benchmark.truth import Exam
from lesionwise.errors import InputError, UnsupportedModelError
from lesionwise.experiments.deletion import Stage
from lesionwise.experiments.faithfulness import FRACTIONS, MEASURES, measures_of, question_of
from lesionwise.geometry.volume import ScanName
from lesionwise.segmenter import AbstractSegmenter
from lesionwise.units import Settings

RIVALS = ("shuffled", "reversed", "other lesion")
"""Maps that are wrong, made of a right one."""
TRUE = "the true map"


def judge(
    rule: str,
    subject: str,
    seed: int,
    chosen: Sequence[Contestant],
    *,
    measures: bool = True,
    model: AbstractSegmenter | None = None,
) -> pd.DataFrame:
    """Rows of one patient, told apart by `part`:

    - "verified": one per blob: was it decided as the rule says, and do its causes hold;
    - "scores": one per lesion that holds and method (the true map and its rivals among them), with seconds per lesion;
    - "measures": one per lesion that holds and measure of `experiment faithfulness`: was the true map ranked first.

    `seed` draws the patient; `model` takes the place of the shipped network.
    """
    planted, model = rule_named(rule), model or network_of(rule)
    exam = Exam.of(planted, planted.patient(seed, name=ScanName(subject)), model, Settings())
    rows, held = [], []
    asked = dict(exam.asked)
    for number, blob in enumerate(exam.patient.blobs, start=1):
        row: dict[str, Any] = {"part": "verified", "lesion": number, "blob": blob.kind, "asked": number in asked}
        if number in asked:
            seen = exam.verify(number)
            row |= {"decided": seen.decided, "holds": seen.holds, "turned": all(seen.turned)}
            row |= {"monotone": all(seen.monotone), "untouched": all(seen.untouched), "log_odds": seen.log_odds}
            row["worth"] = min(seen.worth, key=abs)
            held += [number] if seen.holds else []
        else:
            reading = exam.scan.probe(exam.instance(number)).unchanged[0]
            row |= {"decided": (reading.score > 0.5) == blob.is_lesion, "log_odds": reading.target_mean}
        rows.append(row)
    if held:
        truths = {number: exam.true_map(number) for number in held}
        rows += _true_rows(exam, truths)
        for one in chosen:
            rows += _method_rows(exam, held, one)
        if measures:
            rows += _measure_rows(exam, truths)
    table = pd.DataFrame(rows)
    table.insert(0, "rule", rule)
    table.insert(1, "subject", subject)
    return table


def rivals_of(
    m: np.ndarray, other: np.ndarray | None, head: np.ndarray, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """The map (channels, i, j, k) shuffled over the head and its channels, reversed, and another lesion's in its place."""
    shuffled = np.zeros_like(m)
    shuffled[:, head] = rng.permutation(m[:, head].ravel()).reshape(len(m), -1)
    return {"shuffled": shuffled, "reversed": -m, **({} if other is None else {"other lesion": other})}


def _true_rows(exam: Exam, truths: dict[int, Attribution]) -> list[dict[str, Any]]:
    """The scores of the true map and of its rivals: what a perfect and a worthless map get."""
    rows = []
    for number, found in truths.items():
        answer, rng = exam.answer(number, "contribution"), exam.scan.rng(number, 61)
        for name, m in {TRUE: found.data, **_rivals(exam, number, truths, rng)}.items():
            facts = {"part": "scores", "lesion": number, "method": name, "family": "truth", "kind": "contribution"}
            rows.append(facts | scores_of(m, answer, rng))
    return rows


def _rivals(exam: Exam, number: int, truths: dict[int, Attribution], rng: np.random.Generator) -> dict[str, np.ndarray]:
    others = [one for label, one in truths.items() if label != number]
    head = exam.patient.background.head
    return rivals_of(truths[number].data, others[0].data if others else None, head, rng)


def _method_rows(exam: Exam, held: Sequence[int], one: Contestant) -> list[dict[str, Any]]:
    """One method's scores on every lesion that holds; a method that cannot be applied says why in `note`."""
    scan, facts = _asking(exam.scan, one.target), {"part": "scores", "method": one.name, "family": one.family}
    began = time.perf_counter()
    try:
        found = scan.attribute([exam.instance(number) for number in held], one.method)
    except (InputError, UnsupportedModelError, RuntimeError, AssertionError) as error:
        return [facts | {"lesion": number, "note": " ".join(str(error).split())[:200]} for number in held]
    seconds = (time.perf_counter() - began) / len(held)
    rows = []
    for number, m in zip(held, found, strict=True):
        kind = kind_of(one, m)
        whole = np.zeros((len(m.data), *exam.patient.image.shape[1:]))
        whole[(slice(None), *m.box.slices)] = m.data
        whole = whole[:1] if kind == "location" else whole
        scores = scores_of(whole, exam.answer(number, kind), exam.scan.rng(number, 62))
        rows.append({**facts, "lesion": number, "kind": kind, "seconds": seconds, **scores})
    return rows


def _asking(scan: Scan, target: str) -> Scan:
    """The same scan with another target."""
    explained = scan.explained
    return replace(scan, explained=replace(explained, settings=replace(explained.settings, target=target)))


def _measure_rows(exam: Exam, truths: dict[int, Attribution]) -> list[dict[str, Any]]:
    """Every measure of `experiment faithfulness`, asked about the true map and its rivals: is the true map first?"""
    rows = []
    for number, found in truths.items():
        one = exam.instance(number)
        again = exam.true_map(number, noise=exam.scan.rng(number, 65))
        stage = Stage.of(exam.scan, one)
        question = question_of(stage)
        maps = {TRUE: found.data, **_rivals(exam, number, truths, exam.scan.rng(number, 63))}
        shaken = {TRUE: again.data, **_rivals(exam, number, {**truths, number: again}, exam.scan.rng(number, 63))}
        asked = {
            name: measures_of(
                stage, question, replace(found, data=m.astype(np.float32)), derivative=False,
                fractions=FRACTIONS, perturbations=8, rng=exam.scan.rng(number, 64),
            )
            for name, m in maps.items()
        }  # fmt: skip
        for name, m in maps.items():
            size = float(np.linalg.norm(m))
            asked[name]["sensitivity"] = float(np.linalg.norm(shaken[name] - m)) / size if size > 0 else np.nan
        for measure, better in MEASURES.items():
            values = {name: float(got.get(measure, np.nan)) for name, got in asked.items()}
            row = {"part": "measures", "lesion": number, "measure": measure, "truth": values[TRUE]}
            others = {name: values.get(name, np.nan) for name in RIVALS}
            row |= {name.replace(" ", "_"): value for name, value in others.items()}
            known = [value for value in others.values() if np.isfinite(value)]
            if np.isfinite(values[TRUE]) and known:
                row["first"] = float(all(_good(values[TRUE], better) > _good(value, better) for value in known))
            rows.append(row)
    return rows


def _good(value: float, better: str) -> float:
    """A measure's value so that more is better, by what `MEASURES` says of it."""
    if better.startswith("nearer 0"):
        return -abs(value)
    return -value if better.startswith("lower") else value
