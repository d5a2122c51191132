"""Values that no command can do anything with: exit code 2 and one sentence of plain words."""

import pytest
import tomli_w
from damaged_texts import strange_sentence

from lesionwise.cli.main import main
from lesionwise.cohort.resources import cluster_device
from lesionwise.errors import InputError
from lesionwise.train.recipe import Recipe
from lesionwise.train.run import train


def test_a_seed_below_0_is_refused(tmp_path, capsys):
    assert main(["phantom", str(tmp_path / "p"), "--seed", "-1"]) == 2
    assert "--seed" in capsys.readouterr().err
    assert not (tmp_path / "p").exists()


def test_an_option_that_the_model_does_not_have_is_named(capsys):
    assert main(["models", "show", "builtin?x=1"]) == 2
    said = capsys.readouterr().err
    assert "found 'x'" in said
    assert not strange_sentence(said.strip())


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"address": 3}', "[" * 100_000, "\x00\xff"])
def test_a_broken_scheduler_file_is_named(tmp_path, content):
    pytest.importorskip("distributed")
    path = tmp_path / "scheduler.json"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(InputError, match="dask scheduler --scheduler-file") as refused:
        cluster_device(str(path))
    assert not strange_sentence(str(refused.value))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 half of it", b"\x80\x02}q\x00."])
def test_half_a_checkpoint_is_named_before_anything_is_read(tmp_path, content):
    pytest.importorskip("pytorch_lightning")
    recipe = Recipe("unet", size="tiny", patch=(32, 32, 32))
    (tmp_path / "config.toml").write_text(tomli_w.dumps({"recipe": recipe.table()}))
    (tmp_path / "last.ckpt").write_bytes(content)
    with pytest.raises(InputError, match=r"last\.ckpt is damaged") as refused:
        train(tmp_path / "no-data-set", tmp_path, recipe)
    assert not strange_sentence(str(refused.value))
