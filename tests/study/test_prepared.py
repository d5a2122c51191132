"""`study --prepare`: scanner files are prepared, then explained; those set aside stay on the lists, and nothing is done twice."""

import numpy as np
import pytest

from lesionwise.cli.main import main
from lesionwise.io.files import write_text
from lesionwise.io.nifti import write_image
from lesionwise.prepare import outputs, unit
from lesionwise.prepare import scan as module
from lesionwise.prepare.registration import Rigid


@pytest.fixture(scope="module")
def scanner_files(tmp_path_factory):
    """A ball in noise, as a scanner gives it (01), and one in exact zeros, which is ready (02)."""
    root = tmp_path_factory.mktemp("bids")
    rng = np.random.default_rng(0)
    ball = ((np.indices((28, 28, 28)) - 13.5) ** 2).sum(axis=0) < 11**2
    for subject, around in (("01", 5.0), ("02", 0.0)):
        for name in ("FLAIR", "T1w"):
            data = np.where(ball, 100 + 10 * rng.random(ball.shape), around * (0.1 + rng.random(ball.shape)))
            write_image(root / f"sub-{subject}/anat/sub-{subject}_{name}.nii.gz", data, np.diag([-1.0, 1.0, 1.0, 1.0]))
    return root


@pytest.fixture
def study(scanner_files, network, tmp_path, monkeypatch, capsys):
    """Runs the study of both; the registration finds more in T1w's mirror image. What takes long is left out."""
    monkeypatch.setattr("lesionwise.prepare.doubts.BRAIN_ML_ASIDE", (1.0, 2300.0))
    monkeypatch.setattr(module, "correct_bias", lambda data, affine, brain: (data, 1.0))
    monkeypatch.setattr(outputs, "quality_figure", lambda prepared, path, *, title: write_text(path, title))
    monkeypatch.setattr(module, "register", lambda *args, **kwargs: Rigid(np.eye(4), 0.3, 0.3, 0.4))

    def call(*extra):
        options = ["--model", str(network), "--samples", "4", "--device", "cpu", "--prepare"]
        code = main(["study", str(scanner_files), str(tmp_path), "participant", *options, *extra])
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def test_set_aside_scans_stay_on_the_lists_and_nothing_is_done_twice(study, tmp_path, monkeypatch):
    extraction = ("--brain-extraction", "none")
    code, said, _ = study(*extraction, "--dry-run")
    assert code == 0
    assert said.splitlines()[:3] == [
        "sub-01: to prepare, then to do",
        "sub-02: to prepare, then to do",
        "2 scans to prepare first.",
    ]
    assert not list(tmp_path.iterdir())

    code, said, told = study(*extraction, "--shard", "1/2")
    assert code == 3
    assert "sub-01: set aside: T1w agrees better with FLAIR as its own mirror image" in told
    assert "0 scans explained, 0 kept, 1 left out" in said
    code, said, _ = study(*extraction, "--shard", "2/2")
    assert (code, said.startswith("1 scan explained, 0 kept, 0 left out")) == (0, True)
    listed = (tmp_path / "study/left_out.tsv").read_text().splitlines()
    assert [line.split("\t")[0] for line in listed] == ["scan", "sub-01"]

    monkeypatch.setattr(unit, "prepare_scan", None)  # nothing is prepared again
    code, said, told = study(*extraction)
    assert code == 3
    assert "0 scans explained, 1 kept, 1 left out" in said
    assert "sub-01: set aside" in told
    code, said, _ = study(*extraction, "--dry-run")
    assert code == 0
    assert said.startswith("sub-02: finished\nsub-01: left out, set aside: T1w agrees better")


@pytest.mark.parametrize(
    ("extra", "sentence"),
    [
        (["--brain-masks-from", "nowhere"], "either --prepare or --brain-masks-from"),
        (["--onto", "T2w"], "Expected --onto to be one of the channels FLAIR, T1w, found T2w"),
        (["--brain-extraction", "bet"], "deepbet, hd-bet, synthstrip, none"),
    ],
)
def test_mistakes_are_told_before_any_work(study, tmp_path, extra, sentence):
    code, _, told = study(*extra)
    assert code == 2
    assert sentence in told
    assert not (tmp_path / "derivatives").exists()
