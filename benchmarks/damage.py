"""Damages files of a finished study one at a time and counts what the commands make of it (docs/reliability.md).

python -m benchmarks.damage OUT [--mutations 100] [--seed 0]     OUT is a finished study of several scans; it is copied

Every mutation is of one file, of a kind drawn first. Then `study OUT group`, and in turn `report`, `triage apply`, `figure`
and the served page are run on it. A **sentence** says which file is wrong (exit code 2 or 3, or the page's text); a
**traceback** is exit code 1; **nonsense** is a command that reads the file, says nothing and ends with 0.
"""

import argparse
import contextlib
import io
import random
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

COMMANDS = ("group", "report", "triage apply", "figure", "serve")


def mutations(out: Path, count: int, seed: int, *, all_commands: bool = False) -> list[tuple[str, str, str, str, str]]:
    """(file, damage, command, verdict, what was said) of every command that was run on every mutation."""
    from damage import spoil

    rng, rows = random.Random(seed), []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(count):
            copy = Path(folder) / "out"
            shutil.copytree(out, copy)  # times and all, as a backup would
            path, damage = spoil(copy, rng)
            chosen = COMMANDS if all_commands else ("group", COMMANDS[1 + number % 4])
            for command in chosen:
                code, said = run(command, copy, path)
                rows.append((path.as_posix(), damage, command, verdict(command, path, code, said), said.strip()[-300:]))
            shutil.rmtree(copy)
    return rows


def run(command: str, out: Path, path: Path) -> tuple[int, str]:
    """Exit code and everything said of one command on one damaged folder; `path` is the damaged file."""
    from lesionwise.cli.main import main

    stem = _stem(path)
    if command == "serve":
        from lesionwise.errors import LesionwiseError
        from lesionwise.report.serve import Pages

        try:
            return (0, "") if Pages(out, "127.0.0.1").scan(stem) else (1, "")
        except KeyError:
            return 2, f"no page of {stem}"
        except LesionwiseError as error:
            return 2, str(error)
        except Exception as error:
            return 1, repr(error)
    arguments = {
        "group": ["study", str(out), str(out), "group", "--no-report"],
        "report": ["report", str(out)],
        "triage apply": ["triage", "apply", str(out)],
        "figure": ["figure", str(out), "--scan", stem, "--lesion", "1"],
    }[command]
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = main(arguments)
    return code, said.getvalue()


def verdict(command: str, path: Path, code: int, said: str) -> str:
    """sentence, traceback, nonsense, or nothing to say (the command does not read the file)."""
    if code == 1 or "Traceback" in said:
        return "traceback"
    if code in (2, 3):
        return "sentence" if _stem(path) in said else "nonsense"
    part = path.suffix == ".parquet"
    reads = part if command == "group" else not part
    if command == "triage apply" and ("triage" in path.name or "lookhere" in path.name):
        reads = False  # it writes these anew
    return "nonsense" if reads else "not read"


def _stem(path: Path) -> str:
    if path.suffix == ".parquet":
        return path.stem
    parts = path.name.split("_")
    return "_".join(part for part in parts if part.startswith(("sub-", "ses-", "acq-", "run-")))


def main() -> None:
    """Prints every finding that is no sentence, and the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--mutations", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--all-commands", action="store_true", help="all five on every mutation, not two in turn")
    given = parser.parse_args()
    rows = mutations(given.out, given.mutations, given.seed, all_commands=given.all_commands)
    for path, damage, command, found, said in rows:
        if found in ("traceback", "nonsense"):
            print(f"{found}: {command} on {path} ({damage}): {said}")
    counts = Counter((command, found) for _, _, command, found, _ in rows)
    kinds = ("sentence", "not read", "nonsense", "traceback")
    print(f"{given.mutations} damaged files, seed {given.seed}\n| command | " + " | ".join(kinds) + " |")
    for command in COMMANDS:
        print(f"| {command} | " + " | ".join(str(counts[command, kind]) for kind in kinds) + " |")


if __name__ == "__main__":
    main()
