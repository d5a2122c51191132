"""A unit is done once, again where an input, a setting or its own output changed, and never stops the others."""

import errno
import json
from dataclasses import dataclass, replace
from functools import partial

import pytest

from lesionwise.cohort import CohortResult, ScanUnit, UnitResult, is_finished, run_cohort
from lesionwise.cohort.left_out import LeftOutList
from lesionwise.cohort.unit import run_unit
from lesionwise.errors import InputError
from lesionwise.geometry.volume import ScanName
from lesionwise.io.bids import LeftOut

BROKEN_RECEIPTS = ("", "{", "[]", '{"Key": 3}', '{"Key": "a", "Inputs": {"text": 5}, "Outputs": {}}', "[" * 9999)


@dataclass
class Copying:
    """Work that copies a text in capitals, and counts how often it was asked to."""

    source: object
    target: object
    times: int = 0

    def __call__(self):
        self.times += 1
        text = self.source.read_text()
        if "bad" in text:
            raise InputError(f"Expected good words, found bad ones in {self.source.name}.")
        self.target.write_text(text.upper())
        return UnitResult([self.target], f"{len(text)} letters", {"Letters": len(text)})


@pytest.fixture
def unit(tmp_path):
    source, out = tmp_path / "in.txt", tmp_path / "out"
    source.write_text("words")
    out.mkdir()
    work = Copying(source, out / "sub-01.txt")
    return ScanUnit("copy", ScanName("01"), out, work, {"text": source}, ("loud", 1))


def test_finished_work_is_kept_with_what_it_told(unit):
    first, second = run_unit(unit), run_unit(unit)
    assert (first.status, first.reason, first.facts) == ("done", "5 letters", {"Letters": 5})
    assert (second.status, second.reason, second.facts) == ("kept", "5 letters", {"Letters": 5})
    assert unit.run_fn.times == 1
    assert is_finished(unit)


def test_the_key_is_of_content_not_of_the_place_or_the_time(unit, tmp_path):
    run_unit(unit)
    moved = tmp_path / "elsewhere.txt"
    moved.write_text("words")
    elsewhere = replace(unit, inputs={"text": moved})
    assert not is_finished(elsewhere)  # told without opening it
    assert run_unit(elsewhere).status == "kept"
    assert is_finished(elsewhere)


@pytest.mark.parametrize("change", ["content", "settings", "no resume", "unsound"])
def test_what_changed_is_done_again(unit, change):
    run_unit(unit)
    if change == "content":
        unit.inputs["text"].write_text("other")
    again = {
        "content": unit,
        "settings": replace(unit, depends_on=("loud", 2)),
        "no resume": replace(unit, resume=False),
        "unsound": replace(unit, sound_fn=lambda: False),
    }[change]
    assert run_unit(again).status == "done"
    assert unit.run_fn.times == 2


@pytest.mark.parametrize("damage", ["gone", "cut", "same size"])
def test_damaged_output_is_noticed_and_made_again(unit, damage):
    run_unit(unit)
    target = unit.run_fn.target
    if damage == "gone":
        target.unlink()
    else:
        target.write_text({"cut": "WOR", "same size": "WXRDS"}[damage])
    assert not is_finished(unit)
    assert run_unit(unit).status == "done"
    assert target.read_text() == "WORDS"


def test_damaged_output_is_out_of_the_way_before_the_work_begins(unit):
    run_unit(unit)
    unit.run_fn.target.write_text("broken")

    def looking():
        assert not unit.run_fn.target.exists()
        return unit.run_fn()

    assert run_unit(replace(unit, run_fn=looking)).status == "done"


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"Key": 3}', '{"Key": "a", "Inputs": {"text": 5}, "Outputs": {}}', "[" * 9999]
)
def test_a_broken_receipt_is_no_receipt(unit, content):
    run_unit(unit)
    unit.receipt_path.write_text(content)
    assert run_unit(unit).status == "done"


def test_an_input_that_changes_meanwhile_leaves_the_scan_out(unit):
    def restless():
        unit.inputs["text"].write_text("restless")
        return unit.run_fn()

    outcome = run_unit(replace(unit, run_fn=restless))
    assert (outcome.status, outcome.reason) == ("left_out", "its files changed while they were read")


@pytest.fixture
def three(unit, tmp_path):
    """Three units: good, bad, good."""
    units = []
    for number, text in enumerate(("one", "bad", "three"), start=1):
        source = tmp_path / f"in{number}.txt"
        source.write_text(text)
        work = Copying(source, unit.out / f"sub-0{number}.txt")
        units.append(replace(unit, name=ScanName(f"0{number}"), run_fn=work, inputs={"text": source}))
    return units


def test_one_bad_scan_is_a_reason_and_the_others_go_on(three, unit):
    listed = LeftOutList(unit.out, "copy", unit.out / "copy" / "left_out.tsv")
    seen = []
    result = run_cohort(
        three,
        left_out=listed,
        missing=[LeftOut(ScanName("09"), "no text")],
        progress_fn=lambda stage, done, total: seen.append((done, total)),
    )
    assert [outcome.status for outcome in result.outcomes] == ["done", "left_out", "done"]
    reason = "Expected good words, found bad ones in in2.txt."
    assert result.left_out == (("sub-02", reason), ("sub-09", "no text"))
    assert listed.read() == [("sub-02", "run", reason), ("sub-09", "data set", "no text")]
    assert seen == [(0, 3), (1, 3), (2, 3), (3, 3)]

    three[1].inputs["text"].write_text("better")
    again = run_cohort(three, left_out=listed)
    assert [outcome.status for outcome in again.outcomes] == ["kept", "done", "kept"]
    assert listed.read() == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_stops_the_run(three, number):
    def full():
        raise OSError(number, "No space left on device", "results.tsv")

    three[0] = replace(three[0], run_fn=full)
    with pytest.raises(InputError, match="disk is full"):
        run_cohort(three)
    assert three[2].run_fn.times == 0


def test_parts_of_one_scan_are_units_of_their_own(unit):
    parts = [replace(unit, part=name, run_fn=partial(_writing, unit.out / name)) for name in ("a", "b")]
    result = run_cohort(parts)
    assert isinstance(result, CohortResult)
    assert [outcome.stem for outcome in result.outcomes] == ["sub-01_a", "sub-01_b"]
    assert sorted(path.name for path in parts[0].receipt_path.parent.iterdir()) == ["sub-01_a.json", "sub-01_b.json"]


def test_a_fault_of_ours_keeps_its_traceback_for_us(three):
    def faulty():
        raise ZeroDivisionError("a fault of ours")

    three[0] = replace(three[0], run_fn=faulty)
    result = run_cohort(three)
    assert dict(result.left_out)["sub-01"] == "ZeroDivisionError: a fault of ours"
    assert "Traceback" in json.loads(three[0].reason_path.read_text())["Details"]


def _writing(path):
    path.write_text("x")
    return UnitResult([path])
