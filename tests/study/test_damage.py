"""A seeded sample of damaged files: every command that reads one says so in a sentence, and the next run makes it again."""

import random
import shutil

import pytest
from benchmarks.damage import COMMANDS, mutations
from damage import spoil

from lesionwise.cli.main import main
from lesionwise.study.participant import run_participant


@pytest.mark.slow
def test_damage_is_a_sentence_never_a_traceback_or_silence(undisturbed):
    rows = mutations(undisturbed, 6, seed=3, all_commands=True)
    assert len(rows) == 6 * len(COMMANDS)
    assert [row for row in rows if row[3] in ("traceback", "nonsense")] == []
    assert sum(row[3] == "sentence" for row in rows) >= 6


@pytest.mark.parametrize("seed", [0, 1])
def test_the_next_run_makes_damaged_files_again(make_run, undisturbed, assert_equal_outputs, tmp_path, seed):
    out, rng = shutil.copytree(undisturbed, tmp_path / "out"), random.Random(seed)
    path, _ = spoil(out, rng)
    result = run_participant(*make_run(out))
    stem = (
        path.stem if path.suffix == ".parquet" else path.name.split("_seg-")[0].split("_label-")[0].split("_lesions")[0]
    )
    assert {one.stem for one in result.outcomes if one.status == "done"} == {stem}
    assert_equal_outputs(out, undisturbed)


def test_the_group_step_goes_on_without_a_damaged_part(undisturbed, tmp_path, capsys):
    out = shutil.copytree(undisturbed, tmp_path / "out")
    part = out / "lesions.parquet" / "sub-02.parquet"
    part.write_bytes(part.read_bytes()[:100])
    assert main(["study", str(out), str(out), "group", "--no-report"]) == 3
    assert "left out: sub-02" in capsys.readouterr().err
    assert "sub-02\tresult\t" in (out / "study" / "left_out.tsv").read_text()
