"""The example of docs/cohort.md runs as it stands there."""

import re
from pathlib import Path

import numpy as np

from lesionwise.io.nifti import write_image

GUIDE = Path(__file__).parents[2] / "docs" / "cohort.md"


def test_the_example_of_the_guide_does_what_it_says(tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), flags=re.S)
    names: dict = {}
    exec(compile(code, str(GUIDE), "exec"), names)
    for subject, brightness in (("01", 3.0), ("02", 0.0)):
        image = np.full((4, 4, 4), brightness, dtype=np.float32)
        write_image(tmp_path / f"bids/sub-{subject}/anat/sub-{subject}_FLAIR.nii.gz", image, np.eye(4))
    out = tmp_path / "out"
    first = names["run"](tmp_path / "bids", out)
    assert [outcome.status for outcome in first.outcomes] == ["done", "left_out"]
    assert (out / "sub-01_brightest.txt").read_text() == "3\n"
    assert "is empty" in (out / "left_out.tsv").read_text()
    assert [outcome.status for outcome in names["run"](tmp_path / "bids", out).outcomes] == ["kept", "left_out"]
    assert names["run"](tmp_path / "bids", out, scale=2).outcomes[0].status == "done"
