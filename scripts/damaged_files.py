"""Damaged files for as long as is wanted: every one is read and makes sense, or is refused in one plain sentence.

python scripts/damaged_files.py --minutes 10 --seed 11

Headers, JSON, TOML and Parquet with flipped bits, cuts, zeros, foreign bytes and strange values. It stops at the first
traceback or sentence that is not plain. docs/reliability.md holds its table.
"""

import argparse
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
from damaged_images import damaged_files
from damaged_texts import damaged_texts, strange_sentence

from lesionwise.errors import InputError
from lesionwise.io.nifti import read_file_image


def fuzz(minutes: float, seed: int) -> int:
    """Damaged files for so long, half the time images: each is read and makes sense, or is refused in a sentence."""
    found: dict[str, Counter] = {}
    started, first = time.monotonic(), seed
    with tempfile.TemporaryDirectory() as folder:
        while time.monotonic() < started + 30 * minutes:
            for number, path in damaged_files(Path(folder), range(first, first + 500)):
                if not _reads_or_says("an image", number, partial(_sensible_image, path), found):
                    return 1
            first += 500
        first = seed
        while time.monotonic() < started + 60 * minutes:
            for number, kind in damaged_texts(Path(folder) / str(first), range(first, first + 200)):
                if not _reads_or_says(kind.name, number, partial(kind.read_fn, kind.path), found):
                    return 1
            first += 200
    print(f"{minutes:g} minutes from seed {seed}")
    print("| file | damaged | one sentence | read | traceback |\n|---|---|---|---|---|")
    for name, counts in found.items():
        print(f"| {name} | {sum(counts.values())} | {counts['sentence']} | {counts['read']} | 0 |")
    return 0


def _sensible_image(path: Path) -> None:
    image = read_file_image(path)
    if not (np.isfinite(image.data).all() and np.isfinite(image.affine).all()):
        raise AssertionError("values that are not finite")


def _reads_or_says(name: str, number: int, read_fn: Callable[[], object], found: dict[str, Counter]) -> bool:
    """False, and says which, if it was neither read nor refused in a sentence."""
    counts = found.setdefault(name, Counter())
    try:
        read_fn()
        counts["read"] += 1
    except InputError as error:
        counts["sentence"] += 1
        if strange_sentence(str(error)):
            print(f"{name}, seed {number}: {error}")
            return False
    except Exception:
        print(f"{name}, seed {number}:")
        traceback.print_exc()
        return False
    return True


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    np.seterr(all="ignore")
    sys.exit(fuzz(chosen.minutes, chosen.seed))
