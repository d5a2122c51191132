"""What a run will cost is told from real sizes: the median scan, whole scans that were timed, the lesions asked for."""

from dataclasses import replace

import pytest

from lesionwise.study.estimate import _chosen, _median_case, estimate
from lesionwise.units import Settings


@pytest.mark.parametrize(
    ("lesions", "expected"), [("all", 40), ("12", 1), ("1,4,9", 3), ("largest:12", 12), ("drawn:99", 40)]
)
def test_lesions_are_counted_as_they_are_chosen(lesions, expected):
    assert _chosen(40.0, Settings(lesions=lesions)) == expected


def test_the_scan_of_median_size_is_timed(make_run, tmp_path):
    _, tasks = make_run(tmp_path / "out", participants=["01", "02", "03"])
    sizes = [sum(path.stat().st_size for path in task.scan.images.values()) for task in tasks]
    case = _median_case(tasks)
    middle = sorted(range(len(tasks)), key=lambda n: sizes[n])[len(tasks) // 2]
    assert case.name == tasks[middle].scan.name


def test_finished_scans_count_with_all_that_they_took(make_run, undisturbed):
    from lesionwise.cohort.receipts import Receipt

    _, tasks = make_run(undisturbed)
    again = [replace(task, resume=False) for task in tasks]
    receipts = [found for task in tasks if (found := Receipt.read(task.unit.receipt_path)) is not None]
    assert all(receipt.seconds > 0 for receipt in receipts)
    model, settings = tasks[0].model.load(), tasks[0].settings
    told = estimate(again, model, settings)
    assert "whole scans" in told.hours_source
    each = sum(r.seconds for r in receipts) / sum(r.facts["Lesions"] for r in receipts)
    assert told.hours == pytest.approx(len(tasks) * told.lesions_per_scan * each / 3600)
