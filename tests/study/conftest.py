"""A data set of tiny made-up scans, a tiny random network on disk, and a way to compare two output folders."""

import json
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pyarrow.parquet as pq
import pytest
from tiny_network import ARGUMENTS, tiny_unet

SIDE = 28


def write_scan(bids: Path, subject: str, *, seed: int, session: str | None = None) -> None:
    """A ball of head with a few bright balls in it, on FLAIR, T1w and as a mask in derivatives."""
    from lesionwise.io.nifti import write_image

    rng = np.random.default_rng(seed)
    grid = np.indices((SIDE, SIDE, SIDE))
    head = ((grid - SIDE / 2 + 0.5) ** 2).sum(axis=0) < (SIDE / 2 - 3) ** 2
    lesions = np.zeros_like(head)
    for centre in ((9, 12, 12), (18, 15, 12), (13, 13, 20)):
        lesions |= ((grid - np.reshape(centre, (3, 1, 1, 1))) ** 2).sum(axis=0) <= rng.integers(2, 5)
    affine = np.diag([-1.0, 1.0, 1.0, 1.0])
    folder = Path(f"sub-{subject}", *([f"ses-{session}"] if session else []), "anat")
    stem = f"sub-{subject}" + (f"_ses-{session}" if session else "")
    for channel, contrast in (("FLAIR", 60.0), ("T1w", -30.0)):
        values = head * (100 + 10 * rng.normal(size=head.shape)) + lesions * contrast
        write_image(bids / folder / f"{stem}_{channel}.nii.gz", np.maximum(values, 0), affine)
    write_image(bids / "derivatives" / "manual" / folder / f"{stem}_label-L_mask.nii.gz", lesions, affine, dtype=bool)


@pytest.fixture(scope="session")
def cohort(tmp_path_factory):
    """Four good scans (one patient with two sessions), one without T1w, one whose FLAIR is damaged."""
    bids = tmp_path_factory.mktemp("bids")
    (bids / "dataset_description.json").write_text('{"Name": "made up", "BIDSVersion": "1.10.0"}')
    write_scan(bids, "01", seed=1)
    write_scan(bids, "02", seed=2)
    write_scan(bids, "03", seed=3, session="a")
    write_scan(bids, "03", seed=4, session="b")
    write_scan(bids, "04", seed=5)
    (bids / "sub-04/anat/sub-04_T1w.nii.gz").unlink()
    write_scan(bids, "05", seed=6)
    damaged = bids / "sub-05/anat/sub-05_FLAIR.nii.gz"
    damaged.write_bytes(damaged.read_bytes()[:2000])
    return bids


@pytest.fixture(scope="session")
def network(tmp_path_factory):
    """A small random U-Net as files. It finds nothing, so that the lesions explained are those of the reference."""
    from lesionwise.models.statedict import save_model
    from lesionwise.segmenter import Spec

    spec = Spec("tiny", ("FLAIR", "T1w"), (16, 16, 16), spacing_mm=None, threshold=0.999, min_size_vox=1)
    folder = tmp_path_factory.mktemp("model") / "net"
    return save_model(folder, tiny_unet(), spec, class_name="monai.networks.nets.UNet", arguments=ARGUMENTS)


@pytest.fixture(scope="session")
def make_run(cohort, network):
    """`make_run(out, samples=4, ...)` plans a study of the cohort and returns (plan, tasks)."""
    from study_runs import plan_run

    def planned(out, **options):
        return plan_run(cohort, network, out, **options)

    return planned


@pytest.fixture(scope="session")
def undisturbed(make_run, tmp_path_factory):
    """OUT of a serial run that nothing disturbed."""
    from lesionwise.study.participant import run_participant

    out = tmp_path_factory.mktemp("undisturbed") / "out"
    run_participant(*make_run(out))
    return out


def _without_seconds(content):
    if isinstance(content, dict):
        return {k: _without_seconds(v) for k, v in content.items() if k != "seconds"}
    return content


def agree(mine, theirs):
    """Equal, numbers to float rounding; text that reads as a number counts as one."""
    if isinstance(mine, np.ndarray):
        return mine.shape == theirs.shape and np.allclose(mine, theirs, rtol=1e-3, atol=1e-4 * np.abs(theirs).max())
    if isinstance(mine, dict):
        return mine.keys() == theirs.keys() and all(agree(mine[key], theirs[key]) for key in mine)
    if isinstance(mine, list):
        return len(mine) == len(theirs) and all(agree(a, b) for a, b in zip(mine, theirs, strict=True))
    if mine == theirs:
        return True
    try:
        return abs(float(mine) - float(theirs)) <= 1e-3 * abs(float(theirs)) + 1e-6
    except (TypeError, ValueError):
        return False


def snapshot(out: Path) -> dict[str, object]:
    """Every file of OUT by name: its bytes, without what differs between two equal runs (computing time, the date)."""
    found: dict[str, object] = {}
    for path in sorted(p for p in out.rglob("*") if p.is_file()):
        if path.parent in (out, out / "study", out / ".lesionwise" / "study" / "claims") and ".tmp." in path.name:
            continue  # of a process killed while it wrote a file that belongs to no scan: swept by age
        name = str(path.relative_to(out))
        if path.name.endswith("_saliency.json"):
            found[name] = _without_seconds(json.loads(path.read_text()))
        elif path.name.endswith("_saliency.nii.gz"):
            image = nib.load(path)
            found[name] = [image.affine.tolist(), np.asarray(image.dataobj)]
        elif path.suffix == ".parquet":
            found[name] = pq.read_table(path).drop_columns(["seconds"]).to_pylist()
        elif path.name.endswith("_lesions.tsv"):
            rows = [line.split("\t") for line in path.read_text().splitlines()]
            place = rows[0].index("seconds")
            found[name] = [row[:place] + row[place + 1 :] for row in rows]
        elif path.parent.name == "receipts":
            noted = json.loads(path.read_text())
            found[name] = _without_seconds(
                {**noted, "Outputs": sorted(noted["Outputs"])}
            )  # their time stamps are each run's own
        elif path.parent.name == "written":
            found[name] = sorted(json.loads(path.read_text()))
        elif path.name == "config.toml":
            found[name] = re.sub(r"^written = .*$", "", path.read_text(), flags=re.M)
        else:
            found[name] = path.read_bytes()
    return found


@pytest.fixture(scope="session")
def assert_equal_outputs():
    """Two output folders hold the same files with the same bytes; maps and their figures the same to float rounding.

    (How derivatives are batched is chosen by timing, and the order of summation with it: METHOD section 3.)
    """

    def check(found: Path, expected: Path) -> None:
        mine, theirs = snapshot(found), snapshot(expected)
        assert mine.keys() == theirs.keys()
        assert [name for name in mine if not agree(mine[name], theirs[name])] == []

    return check
