"""The command line, run in process: files, last line, exit codes, one sentence for each mistake."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from lesionwise.cli.main import COMMANDS, main
from lesionwise.io.derivative import list_scans
from lesionwise.io.nifti import read_image, write_image
from lesionwise.segmenter import Segmenter


@pytest.fixture(scope="module")
def files(small_case, tmp_path_factory):
    folder = tmp_path_factory.mktemp("scan")
    paths = {}
    for name, data in zip(("FLAIR", "T1w"), small_case.image.data, strict=True):
        paths[name] = folder / f"sub-x_{name}.nii.gz"
        write_image(paths[name], data, small_case.image.affine)
    paths["mask"] = folder / "mask.nii.gz"
    write_image(paths["mask"], small_case.reference, small_case.image.affine, dtype=bool)
    return paths


@pytest.fixture
def run(files, bright_model, monkeypatch, capsys):
    import lesionwise.cli.explain as command

    monkeypatch.setattr(command, "load_model", lambda *args, **kwargs: bright_model)

    def call(*extra: str, **replaced: str):
        images = {**{c: str(files[c]) for c in ("FLAIR", "T1w")}, **replaced}
        arguments = [part for channel, path in images.items() if path for part in ("-i", f"{channel}={path}")]
        code = main(["explain", *arguments, "--no-report", "--device", "cpu", *extra])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_explain_writes_and_says_what_it_found(run, files, tmp_path):
    code, out, err = run(
        "--reference", str(files["mask"]), "--lesions", "largest:2", "--samples", "2", "-o", str(tmp_path / "o")
    )
    assert code == 0, err
    assert "2 explained" in out
    assert "Plan: 2 lesions" in err
    assert [name.stem for name in list_scans(tmp_path / "o")] == ["sub-x"]
    assert (tmp_path / "o" / "config.toml").is_file()


def test_flair_alone_is_explained_and_what_is_lost_is_said_everywhere(
    files, bright_model, monkeypatch, capsys, tmp_path
):
    import lesionwise.cli.explain as command

    spec = replace(bright_model.spec, optional_channels=("T1w",))
    monkeypatch.setattr(command, "load_model", lambda *args, **kwargs: Segmenter(bright_model.network, spec))
    options = ["--device", "cpu", "--method", "gradient", "--lesions", "largest:1", "-o", str(tmp_path)]
    assert main(["explain", "-i", f"FLAIR={files['FLAIR']}", *options]) == 0
    lost = "T1w was not given"
    assert lost in capsys.readouterr().err
    notes = json.loads((tmp_path / "sub-x/anat/sub-x_label-L_probseg.json").read_text())["Notes"]
    assert any(lost in note for note in notes)
    assert lost in (tmp_path / "report.html").read_text(encoding="utf-8")
    table = pd.read_csv(tmp_path / "sub-x/anat/sub-x_lesions.tsv", sep="\t")
    assert "peak_FLAIR" in table
    assert "peak_T1w" not in table


def test_subject_and_single_numbers(run, tmp_path):
    code, _, err = run("--subject", "sub-99", "--lesions", "1", "--method", "gradient", "-o", str(tmp_path))
    assert code == 0, err
    assert [name.stem for name in list_scans(tmp_path)] == ["sub-99"]


@pytest.mark.parametrize(
    ("extra", "replaced", "sentence"),
    [
        (["--lesions", "999"], {}, "Lesions 999 were asked for"),
        (["--lesions", "some"], {}, "'largest:5'"),
        (["--method", "magic"], {}, "--method"),
        (["--target", "magic"], {}, "--target"),
        (["--reduce", "sum"], {}, "--reduce"),
        (["--threshold", "2"], {}, "threshold"),
        (["--connectivity", "7"], {}, "Connectivity"),
        (["--min-size", "big"], {}, "size"),
        (["--min-size", "nanmm3"], {}, "must look like 6 (voxels) or 5mm3"),
        (["--noise", "inf"], {}, "noise must be a number from 0"),
        (["--max-voxels", "-3"], {}, "--max-voxels"),
        (["--approximate", "all"], {}, "--approximate"),
        (["--approximate", "chunked-max"], {}, "--reduce max"),
        (["--preset", "unknown"], {}, "spagnolo2026"),
        (["--method", "gradient", "--samples", "5"], {}, "no option --samples"),
        (["--antithetic", "--samples", "5"], {}, "even number"),
        ([], {"T1w": "/nowhere.nii.gz"}, "no file /nowhere.nii.gz"),
        ([], {"T1w": ""}, "T1w is missing"),
        (["--reference", "/nowhere.nii.gz"], {}, "no file /nowhere.nii.gz"),
    ],
)
def test_mistakes_get_one_sentence_and_leave_nothing(run, tmp_path, extra, replaced, sentence):
    out = tmp_path / "o"
    code, stdout, err = run(*extra, "-o", str(out), **replaced)
    assert code == 2
    assert sentence in err
    assert "Traceback" not in err
    assert stdout == ""
    assert not list(out.rglob("*_lesions.json"))


@pytest.mark.parametrize(
    ("extra", "sentence"),
    [
        (["--lesions", "largest:few"], "'largest:5'"),
        (["--triage", "nowhere.json"], "no file nowhere.json"),
        (["--subject", "a/b"], "--subject"),
        (["--subject", "sub-a_b"], "--subject"),
        (["-o", "FILE"], "found the file"),
        (["-o", "FILE/below"], "found the file"),
        (["-o", "LOCKED/below"], "may not be written to"),
    ],
)
def test_what_can_be_known_before_is_said_before_predicting(run, tmp_path, monkeypatch, extra, sentence):
    import os

    from lesionwise.units import work

    locked, file = tmp_path / "locked", tmp_path / "file"
    locked.mkdir()
    file.write_text("x")
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != str(locked) and allowed(path, mode))
    monkeypatch.setattr(work, "predict_case", lambda *args, **kwargs: pytest.fail("predicted"))
    extra = [part.replace("FILE", str(file)).replace("LOCKED", str(locked)) for part in extra]
    code, _, err = run("-o", str(tmp_path / "o"), *extra)
    assert code == 2
    assert sentence in err
    assert not (tmp_path / "o").exists()


def test_images_on_different_grids_name_resample(run, files, tmp_path):
    data, affine = read_image(files["T1w"])
    moved = tmp_path / "t1.nii.gz"
    write_image(moved, data[2:], affine)
    code, _, err = run("-o", str(tmp_path / "o"), T1w=str(moved))
    assert code == 2
    assert "--resample" in err
    code, _, err = run(
        "-o", str(tmp_path / "o"), "--resample", "--lesions", "1", "--method", "gradient", T1w=str(moved)
    )
    assert code == 0, err


def test_interrupt_is_130_and_keeps_what_is_done(run, files, tmp_path, monkeypatch):
    from lesionwise.units import work

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(work.Session, "stream", interrupted)
    code, _, err = run("--lesions", "1", "-o", str(tmp_path))
    assert code == 130
    assert err.count("goes on from there") == 1
    assert (tmp_path / "sub-x/anat/sub-x_label-L_probseg.nii.gz").is_file()
    assert list_scans(tmp_path) == []


def test_disk_full_is_a_sentence_and_nothing_half_written(run, tmp_path, monkeypatch):
    import errno
    import os

    def full(source, target):
        raise OSError(errno.ENOSPC, "No space left on device", str(target))

    monkeypatch.setattr(os, "replace", full)
    code, _, err = run("--lesions", "1", "--method", "gradient", "-o", str(tmp_path))
    assert code == 2
    assert "No space left on device" in err
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_our_fault_is_1(run, tmp_path, monkeypatch):
    import lesionwise.cli.explain as command

    def broken(*args, **kwargs):
        raise RuntimeError("a bug")

    monkeypatch.setattr(command, "explain_case", broken)
    code, _, err = run("-o", str(tmp_path))
    assert code == 1
    assert "a bug" in err


def test_help_and_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("lesionwise ")
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    for name in COMMANDS:
        assert name in shown
    assert main(["no-such-command"]) == 2


def test_maps_of_a_flipped_file_are_the_flipped_maps(run, files, tmp_path, small_case):
    """Orientation of storage must not change what is found: compare in world space."""
    straight, flipped = tmp_path / "a", tmp_path / "b"
    options = ("--lesions", "largest:1", "--method", "gradient")
    assert run(*options, "-o", str(straight))[0] == 0
    replaced = {}
    for channel in ("FLAIR", "T1w"):
        data, affine = read_image(files[channel])
        affine[:3, 3] += affine[:3, 0] * (data.shape[0] - 1)
        affine[:3, 0] *= -1
        replaced[channel] = str(tmp_path / f"sub-x_{channel}.nii.gz")
        write_image(tmp_path / f"sub-x_{channel}.nii.gz", data[::-1], affine)
    assert run(*options, "-o", str(flipped), **replaced)[0] == 0
    names = [next(folder.rglob("*_saliency.nii.gz")) for folder in (straight, flipped)]
    import nibabel as nib

    first, second = (nib.load(name) for name in names)
    assert np.allclose(first.get_fdata(), second.get_fdata()[::-1], atol=1e-7)
    corner = np.array([first.shape[0] - 1, 0, 0, 1])
    assert np.allclose(first.affine @ corner, second.affine @ [0, 0, 0, 1])


def test_preset_is_the_published_one(bright_model):
    from lesionwise.cli.options import published

    chosen = published("spagnolo2026", bright_model, method="smoothgrad")
    assert (chosen["target"], chosen["connectivity"], chosen["threshold"]) == ("logit", 18, 0.4)
    method = chosen["method"]
    assert (method.reduce, method.n_samples, method.max_voxels, method.noise_rule) == ("max", 50, None, "published")


def test_an_interrupt_that_reaches_the_outermost_door_is_told_once(monkeypatch, capsys):
    from lesionwise.cli import main as door

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(door, "app", interrupted)
    assert door.main(["explain"]) == 130
    assert capsys.readouterr().err.count("goes on from there") == 1
