"""Brain extraction: the network whose weights come along, the user's own commands, and what is said where they are missing."""

import os
from pathlib import Path

import numpy as np
import pytest

from lesionwise.errors import InputError, MissingExtraError
from lesionwise.geometry.volume import Volume
from lesionwise.prepare import extraction
from lesionwise.prepare.extraction import EXTRACTIONS, check_installed

IMAGE = Volume(np.arange(60, dtype=np.float32).reshape(1, 3, 4, 5), np.diag([-1.0, -1.0, 2.0, 1.0]), ("T1w",))

COMMAND = """#!{python}
import sys
import nibabel
given = sys.argv[sys.argv.index("-i") + 1]
image = nibabel.load(given)
data = (image.get_fdata() > 30).astype("uint8")
name = {name}
nibabel.save(nibabel.Nifti1Image(data, image.affine), name)
"""


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Puts a command of the user's on the path that calls every voxel above 30 brain."""

    def put(command: str, name: str) -> None:
        import sys

        path = tmp_path / command
        path.write_text(COMMAND.format(python=sys.executable, name=name))
        path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    return put


def test_synthstrip_of_the_users_own(installed):
    installed("mri_synthstrip", 'sys.argv[sys.argv.index("-m") + 1]')
    assert np.array_equal(EXTRACTIONS["synthstrip"](IMAGE), IMAGE.data[0] > 30)


def test_hd_bet_runs_only_with_its_weights_in_place(installed, tmp_path, monkeypatch):
    installed("hd-bet", '"brain_bet.nii.gz"')
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    with pytest.raises(InputError, match="nothing is downloaded here"):
        EXTRACTIONS["hd-bet"](IMAGE)
    weights = tmp_path / extraction.HD_BET_WEIGHTS
    weights.parent.mkdir(parents=True)
    weights.touch()
    assert np.array_equal(EXTRACTIONS["hd-bet"](IMAGE), IMAGE.data[0] > 30)


@pytest.mark.parametrize(("name", "command"), [("hd-bet", "hd-bet"), ("synthstrip", "mri_synthstrip")])
def test_a_command_that_is_not_there_is_named(name, command, monkeypatch):
    monkeypatch.setattr(extraction.shutil, "which", lambda _: None)
    with pytest.raises(InputError, match=f"Expected the command {command}"):
        check_installed(name)
    with pytest.raises(InputError, match="--brain-extraction deepbet"):
        EXTRACTIONS[name](IMAGE)


def test_a_missing_package_is_one_sentence_that_names_the_extra(monkeypatch):
    monkeypatch.setattr(extraction, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'lesionwise\[prepare\]'"):
        check_installed("deepbet")


def test_deepbet_gets_the_head_upright_and_its_mask_comes_back_as_the_head_lies(monkeypatch):
    class Upright:
        def run_model(self, data):
            self.seen = data
            return (data > 30).astype(np.float32)

        def postprocess(self, mask):
            return mask

    network = Upright()
    monkeypatch.setattr(extraction, "_deepbet", lambda: network)
    assert np.array_equal(EXTRACTIONS["deepbet"](IMAGE), IMAGE.data[0] > 30)
    assert np.array_equal(
        network.seen, IMAGE.data[0, ::-1, ::-1]
    )  # the grid runs left and back, deepbet's right and front


def test_an_image_without_a_brain_is_refused_in_a_sentence():
    pytest.importorskip("deepbet")
    with pytest.raises(InputError, match="deepbet finds none"):
        EXTRACTIONS["deepbet"](Volume(np.ones((1, 8, 8, 8), dtype=np.float32), np.eye(4), ("T1w",)))
