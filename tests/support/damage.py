"""Damage to the files of an output folder, of every kind that disks, copies and editors do, drawn by a seed."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd

Damage = Callable[[Path, random.Random], None]


def cut(path: Path, rng: random.Random) -> None:
    """Keeps the first part."""
    data = path.read_bytes()
    path.write_bytes(data[: rng.randrange(len(data))])


def emptied(path: Path, rng: random.Random) -> None:
    """Leaves a file of 0 bytes."""
    path.write_bytes(b"")


def gone(path: Path, rng: random.Random) -> None:
    """Removes it."""
    path.unlink()


def flipped(path: Path, rng: random.Random) -> None:
    """Changes a few bits, at the same size."""
    data = bytearray(path.read_bytes())
    for _ in range(rng.randint(1, 8)):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def zeroed(path: Path, rng: random.Random) -> None:
    """Writes zeros over a block, as a crashed disk does."""
    data = bytearray(path.read_bytes())
    start = rng.randrange(len(data))
    data[start : start + 512] = bytes(len(data[start : start + 512]))
    path.write_bytes(data)


def noise(path: Path, rng: random.Random) -> None:
    """Other bytes altogether."""
    path.write_bytes(rng.randbytes(rng.randint(1, 4096)))


def of_another(path: Path, rng: random.Random) -> None:
    """The same file of another scan, or a foreign one of its kind."""
    if path.suffix == ".parquet":
        pd.DataFrame({"a": [1, 2], "lesion": ["x", "y"]}).to_parquet(path)
        return
    kind = path.name.split("_", 1)[1]
    others = [one for one in path.parents[2].rglob(f"*_{kind}") if one.name != path.name]
    if others:
        shutil.copyfile(rng.choice(sorted(others)), path)
    else:
        noise(path, rng)


def strange_json(path: Path, rng: random.Random) -> None:
    """A value of another type, somewhere in the JSON; or nesting that no reader follows."""
    if rng.random() < 0.1:
        path.write_text("[" * 100_000)
        return
    content = json.loads(path.read_text())
    place = content
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            break
        key = rng.choice(keys)
        if isinstance(place[key], dict | list) and place[key] and rng.random() < 0.7:
            place = place[key]
            continue
        place[key] = rng.choice([None, "abc", -1, 1e308, [], {}, [[1]], True, "n/a"])
        break
    path.write_text(json.dumps(rng.choice([content, content, content, [content], "text", 5])))


def strange_cell(path: Path, rng: random.Random) -> None:
    """A cell that no longer is what its column holds, a lost column, or a row given twice."""
    rows = [line.split("\t") for line in path.read_text().splitlines()]
    row, column = rng.randrange(len(rows)), rng.randrange(len(rows[0]))
    what = rng.randrange(4)
    if what == 0:
        rows[row][column] = rng.choice(["abc", "inf", "-5", "", "1e999", "TP", "NaN"])
    elif what == 1:
        rows = [line[:column] + line[column + 1 :] for line in rows]
    elif what == 2:
        rows.append(rows[-1])
    else:
        rows[row] = rows[row][:column]
    path.write_text("\n".join("\t".join(line) for line in rows) + "\n")


ANY: tuple[Damage, ...] = (cut, emptied, gone, flipped, zeroed, noise, of_another)


def spoil(out: Path, rng: random.Random) -> tuple[Path, str]:
    """Damages one file of one scan of `out`; returns its path below `out` and the kind of damage."""
    files = sorted(p for p in out.glob("sub-*/**/*") if p.is_file() and not p.name.endswith("_report.html"))
    files += sorted((out / "lesions.parquet").glob("*.parquet"))
    kinds = sorted({_kind(path) for path in files})
    kind = rng.choice(kinds)  # by kind, so that the many maps do not take all turns
    path = rng.choice([one for one in files if _kind(one) == kind])
    own = {".json": (strange_json,) * 4, ".tsv": (strange_cell,) * 4}.get(path.suffix, ())
    damage = rng.choice([*ANY, *own])
    before = path.read_bytes()
    damage(path, rng)
    if path.is_file() and path.read_bytes() == before:
        noise(path, rng)
        damage = noise
    return path.relative_to(out), damage.__name__


def _kind(path: Path) -> str:
    if path.suffix == ".parquet":
        return "part"
    return "map" + path.suffix if "_saliency" in path.name else path.name.split("_", 1)[1].split("_", 1)[-1]
