"""Wrong inputs, one by one, through the command line: a sentence, the right answer with a word, a traceback, or nonsense.

python scripts/wrong_inputs.py                   # counts them: the section on inputs of docs/reliability.md

Every input is built in a temporary folder from a synthetic head with three lesions, and read by `lesionwise explain`
(images, masks) or `lesionwise study --dry-run` (data sets). The network calls FLAIR above 750 a lesion, so that the right
answer is known.
"""

import argparse
import contextlib
import io
import json
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
from odd_inputs import VOLUME_MM3, Bright, Wrong, contents, data_sets, headers, places, values

import lesionwise.cli.explain as explain_command
import lesionwise.models.zoo as zoo
from lesionwise.cli.main import main
from lesionwise.segmenter import Segmenter, Spec


def judged(wrong: Wrong, folder: Path) -> tuple[str, str]:
    """(sentence | right | traceback | nonsense, what was said last)."""
    arguments = wrong.build(folder)
    out = folder / "out"
    if arguments[:1] != ["study"]:
        options = ["--samples", "1", "--lesions", "largest:0", "--no-report", "-o", str(out)]
        arguments = ["explain", *arguments, *options]
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            code = main(arguments)
        except SystemExit as stop:
            code = int(stop.code or 0)
    lines = [line for line in said.getvalue().splitlines() if line.strip()]
    last = lines[-1] if lines else ""
    if code == 1 or "Traceback" in said.getvalue():
        return "traceback", last
    if arguments[0] == "study":
        left_out = any("left out" in line or "Expected" in line for line in lines)
        return ("sentence" if left_out else "nonsense"), last
    if code == 2:
        sentence = sum(line.startswith("lesionwise: ") for line in lines) == 1 or "Usage" in lines[0]
        return ("sentence" if sentence else "nonsense"), last
    if wrong.told is None:
        return "nonsense", f"accepted: {last}"
    facts = json.loads(next(out.rglob("*_label-L_probseg.json")).read_text())
    lesions = pd.read_csv(next(out.rglob("*_lesions.tsv")), sep="\t")
    right = list(lesions["outcome"]) == ["TP"] * 3 and abs(lesions["volume_mm3"].sum() - VOLUME_MM3) < 1e-3
    told = wrong.told in " ".join(facts["Notes"]) and wrong.told in said.getvalue()
    return ("right" if right and told else "nonsense"), last


def count(shown: bool) -> int:
    """Judges all and prints the table; returns how many are tracebacks or nonsense."""
    spec = Spec("above750", ("FLAIR", "T1w"), (32, 32, 32), threshold=0.5, spacing_mm=None, normalisation="none")
    model = Segmenter(Bright().eval(), spec)
    explain_command.load_model = zoo.load_model = lambda *_, **__: model  # loaded once: not what is tried here
    found: dict[str, Counter] = {}
    bad = 0
    for kind, wrongs in (
        ("fields of headers", headers()),
        ("places and grids", places()),
        ("contents of files", contents()),
        ("values, masks and options", values()),
        ("data sets and filters", data_sets()),
    ):
        for wrong in wrongs:
            with tempfile.TemporaryDirectory() as folder:
                verdict, last = judged(wrong, Path(folder))
            found.setdefault(kind, Counter())[verdict] += 1
            if verdict in ("traceback", "nonsense") or shown:
                print(f"{verdict}: {wrong.name}: {last}", file=sys.stderr, flush=True)
            bad += verdict in ("traceback", "nonsense")
    verdicts = ("sentence", "right", "traceback", "nonsense")
    print("| inputs | n | one sentence, exit 2 | read rightly, and told | traceback | nonsense |")
    print("|---|---|---|---|---|---|")
    for kind, counts in found.items():
        print(f"| {kind} | {sum(counts.values())} | " + " | ".join(str(counts[v]) for v in verdicts) + " |")
    total = sum(found.values(), Counter())
    print(f"| all | {sum(total.values())} | " + " | ".join(str(total[v]) for v in verdicts) + " |")
    return bad


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--show", action="store_true", help="every input with what was said")
    chosen = parser.parse_args()
    np.seterr(all="ignore")
    sys.exit(count(chosen.show))
