"""Damaged sidecars, descriptions and tables, a function of a seed: for the tests, and for `scripts/damaged_files.py --minutes`.

Every file is written sound by the software, then damaged, then read by what reads it in a command.
"""

import copy
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import tomli_w
from tiny_network import ARGUMENTS, tiny_unet
from triage_models import by_volume

from lesionwise.cohort.engines import _check_scheduler_file
from lesionwise.geometry.volume import ScanName
from lesionwise.io.bids import read_filters
from lesionwise.io.checks import TEXT, check_facts, check_lesions, check_map, read_json, read_table
from lesionwise.models.statedict import save_model
from lesionwise.models.zoo import load_model
from lesionwise.segmenter import Spec
from lesionwise.store import part_path, read_part, write_part
from lesionwise.train.recipe import Recipe
from lesionwise.train.run import _same_run
from lesionwise.triage.model import load_triage
from lesionwise.triage.model import save_model as save_triage
from lesionwise.why.finished import settings_of

ODD = (
    None,
    "abc",
    "",
    -1,
    0,
    1e308,
    -1e308,
    float("nan"),
    float("inf"),
    [],
    {},
    [[1]],
    True,
    "n/a",
    0.5,
    ["a"],
    {"a": 1},
)
FACTS = {
    "Channels": ["FLAIR", "T1w"],
    "Model": {"Name": "tiny", "Fingerprint": "0123"},
    "Threshold": 0.5,
    "SourceFiles": {"FLAIR": "flair.nii.gz"},
    "Notes": ["A sentence."],
}
MAP = {
    "Units": "log-odds per SD",
    "Channels": ["FLAIR", "T1w"],
    "CropStart": [0, 1, 2],
    "CropStop": [4, 5, 6],
    "Statistics": {"peak": 1.5, "se": None},
}
LESIONS = pd.DataFrame(
    {
        "lesion": [1, 2],
        "outcome": ["TP", "FP"],
        "volume_mm3": [12.0, 30.5],
        "x_mm": [-3.5, 10.0],
        "y_mm": [0.0, 2.0],
        "z_mm": [5.0, 7.25],
        "probability_max": [0.9, 0.8],
    }
)


@dataclass(frozen=True)
class Readable:
    """A kind of file: where it lies, and what reads it. Raises InputError there, or nothing."""

    name: str
    path: Path
    read_fn: Callable[[Path], Any]


def written(folder: Path) -> list[Readable]:
    """One sound file of every kind, and what reads it."""
    folder.mkdir(parents=True, exist_ok=True)
    spec = Spec("tiny", ("FLAIR", "T1w"), (16, 16, 16), spacing_mm=None)
    model = save_model(folder / "net", tiny_unet(), spec, class_name="monai.networks.nets.UNet", arguments=ARGUMENTS)
    triage = folder / "triage.json"
    save_triage(by_volume(4.0), triage)
    recipe = Recipe("unet", size="tiny", patch=(32, 32, 32))
    run, out = folder / "run", folder / "out"
    for place, content in ((run, {"recipe": recipe.table()}), (out, {"settings": {"lesions": "all", "seed": 0}})):
        place.mkdir()
        (place / "config.toml").write_text(tomli_w.dumps(content))
    texts = {
        "facts.json": FACTS,
        "map.json": MAP,
        "filters.json": {"FLAIR": {"acquisition": "3D", "run": ["1", "2"]}},
        "scheduler.json": {"address": "tcp://127.0.0.1:8786", "workers": {}},
    }
    for name, content in texts.items():
        (folder / name).write_text(json.dumps(content))
    table, name = folder / "lesions.tsv", ScanName("01")
    LESIONS.to_csv(table, sep="\t", index=False, na_rep="n/a")
    write_part(out, name, LESIONS, model="0123", method="smoothgrad")
    return [
        Readable("a model's description", model / "model.toml", lambda path: load_model(path.parent)),
        Readable("a training's settings", run / "config.toml", lambda path: _same_run(path.parent, recipe)),
        Readable("a run's settings", out / "config.toml", lambda path: settings_of(path.parent)),
        Readable("a triage model", triage, load_triage),
        Readable("a sidecar of probability", folder / "facts.json", lambda path: check_facts(read_json(path), path)),
        Readable("a sidecar of a map", folder / "map.json", lambda p: check_map(read_json(p), (4, 4, 4, 2), p)),
        Readable("filters", folder / "filters.json", lambda path: read_filters(path, channels=("FLAIR", "T1w"))),
        Readable("a scheduler's file", folder / "scheduler.json", _check_scheduler_file),
        Readable("a table of lesions", table, lambda path: check_lesions(read_table(path, text=TEXT), path)),
        Readable("a part of the cohort", part_path(out, name), read_part),
    ]


def damaged_texts(folder: Path, seeds: range) -> Iterator[tuple[int, Readable]]:
    """Each kind of file damaged in turn, by its seed; it is sound again before the next."""
    kinds = written(folder)
    sound = {kind.path: kind.path.read_bytes() for kind in kinds}
    for seed in seeds:
        rng, kind = random.Random(f"{seed} 17"), kinds[seed % len(kinds)]
        content = damaged(kind.path, sound[kind.path], rng)
        kind.path.write_bytes(content)
        yield seed, kind
        kind.path.write_bytes(sound[kind.path])


def damaged(path: Path, content: bytes, rng: random.Random) -> bytes:
    """The bytes changed as disks and editors do, or a value, a name or a column changed for another."""
    if rng.random() < 0.6:
        if path.suffix == ".json":
            found = _changed(json.loads(content), rng)
            return json.dumps(found).encode()
        if path.suffix == ".toml":
            import tomllib

            changed = _changed(tomllib.loads(content.decode()), rng)
            if isinstance(changed, dict):
                return tomli_w.dumps(_without_none(changed)).encode()
        if path.suffix == ".parquet":
            return _other_parquet(content, rng)
    return _bytes(content, rng)


def _bytes(content: bytes, rng: random.Random) -> bytes:
    kind, data = rng.randrange(7), bytearray(content)
    if kind == 0:
        return content[: rng.randrange(len(content))]
    if kind == 1:
        return rng.choice(
            [b"[" * 100_000, b"{" * 5000, b"a = " + b"[" * 50_000, b'{"a":' * 50_000, b"", b"null", b"\xef\xbb\xbf"]
        )
    if kind == 2:
        return rng.randbytes(rng.randint(1, 2000))
    if kind == 3:
        at = rng.randrange(len(data))
        return (
            bytes(data[:at])
            + rng.choice([b"NaN", b"1e999", b"\x00", b"\xff\xfe", b'"', b"\n", b"[[", b"-"])
            + bytes(data[at:])
        )
    if kind == 4:
        start = rng.randrange(len(data))
        data[start : start + 64] = bytes(len(data[start : start + 64]))
        return bytes(data)
    for _ in range(rng.randint(1, 6)):
        data[rng.randrange(len(data))] = rng.randrange(256) if kind == 5 else rng.choice(b'0123456789.-e"[]{},:=\t\n')
    return bytes(data)


def _changed(content: Any, rng: random.Random) -> Any:
    """One to three values of another type, or gone, somewhere in it."""
    content = copy.deepcopy(content)
    for _ in range(rng.randint(1, 3)):
        place = content
        while isinstance(place, dict | list) and place:
            key = rng.choice(list(place)) if isinstance(place, dict) else rng.randrange(len(place))
            if isinstance(place[key], dict | list) and place[key] and rng.random() < 0.75:
                place = place[key]
                continue
            if rng.random() < 0.2:
                del place[key]
            else:
                place[key] = rng.choice(ODD)
            break
    return rng.choice([content] * 9 + [[content]])


def _without_none(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _without_none(value) for key, value in content.items() if value is not None}
    return [_without_none(value) for value in content if value is not None] if isinstance(content, list) else content


def _other_parquet(content: bytes, rng: random.Random) -> bytes:
    """A part with a column of another type or gone, other facts, or a foreign table."""
    table = pq.read_table(pa.BufferReader(content))
    facts, column = dict(table.schema.metadata or {}), rng.choice(table.column_names)
    place, kind = table.column_names.index(column), rng.randrange(5)
    if kind == 0:
        table = table.remove_column(place)
    elif kind == 1:
        odd: tuple[list[Any], ...] = (
            ["x", "y"],
            [1.5, None],
            [[1], [2]],
            [{"a": 1}, None],
            [True, False],
            [b"\xff", b""],
        )
        table = table.set_column(place, column, pa.array(rng.choice(odd)))
    elif kind == 2:
        key = rng.choice(sorted(facts))
        facts[key] = rng.choice(
            [b"", b"abc", b"99", b"-1", b"[]", b"{}", b"[" * 50_000, b"[1]", b'[{"scan": 3}]', b"\xff"]
        )
    elif kind == 3:
        table = pa.table({"a": [1, 2], "lesion": ["x", "y"]})
    else:
        table = table.append_column(column, table[column])
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata(facts), sink)
    return sink.getvalue().to_pybytes()


PYTHON = (
    "Traceback",
    "Error:",
    "Exception",
    "NoneType",
    "object has no",
    "unsupported operand",
    "not supported between",
    "Errno",
)
"""Words of Python that a sentence for people never has."""


def strange_sentence(text: str) -> bool:
    """Whether a refusal is more than one sentence of plain words."""
    return "\n" in text or not text.endswith(".") or any(word in text for word in PYTHON)


np.seterr(all="ignore")
