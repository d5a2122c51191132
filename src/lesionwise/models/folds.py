"""A cross-validated model: one network per fold, and the rule by which nobody is judged by a network that knows them.

A folder with `folds.json` (which patients each fold left out) and `fold-0`, `fold-1`, ..., each a model folder; or one
file `NAME.folds.npz`, which holds the same in half precision. A patient of the training data is predicted and
explained by the network of the fold that left them out, anybody else by the mean probability of all networks;
`?fold=k` asks one network.
"""

import hashlib
import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
import torch
from torch import nn

from lesionwise.errors import InputError, ModelFileError
from lesionwise.geometry.volume import Case
from lesionwise.io.files import write_whole
from lesionwise.models.architecture import build, load_weights
from lesionwise.models.members import Members
from lesionwise.models.statedict import load_pair, parse_toml, spec_of, spec_table
from lesionwise.network import take_as_fitting
from lesionwise.segmenter import AbstractSegmenter, Placement, Segmenter, Spec

OPTIONS = {"fold": "the number of one network (the one that has not seen the patient, else all)"}
INDEX = "folds.json"
SUFFIX = ".folds.npz"


@dataclass(frozen=True, eq=False)
class CrossValidated(AbstractSegmenter):
    """Networks of one layout, each trained without the patients of its fold.

    `held_out` lists, per network, the participants it has not seen; `contents` the same as hashes of their images (see
    `content_hash`), so that a scan under another name is recognised as well.
    """

    parts: tuple[Segmenter, ...]
    held_out: tuple[tuple[str, ...], ...]
    contents: tuple[tuple[str, ...], ...] = ()

    @property
    def spec(self) -> Spec:
        """That of the ensemble of all networks; its threshold is the median of theirs."""
        first = self.parts[0].spec
        thresholds = sorted(part.spec.threshold for part in self.parts)
        return replace(first, members=len(self.parts), threshold=thresholds[len(thresholds) // 2])

    @cached_property
    def network(self) -> nn.Module:
        """All networks side by side."""
        return Members([part.network for part in self.parts]).eval()

    def place(self, case: Case) -> Placement:
        """As each of its networks does; they share one grid."""
        return self.parts[0].place(case)

    def fold_of(self, case: Case) -> int | None:
        """The fold that left this patient out, None for somebody whom no network has seen."""
        seen = content_hash(case)
        for fold, hashes in enumerate(self.contents):
            if seen in hashes:
                return fold
        for fold, subjects in enumerate(self.held_out):
            if case.name.subject in subjects:
                return fold
        return None

    def for_case(self, case: Case) -> AbstractSegmenter:
        """The network that has not seen this patient, or the ensemble if none has."""
        fold = self.fold_of(case)
        return (self.alone() if fold is None else self._part(fold)).for_case(case)

    def _part(self, fold: int) -> Segmenter:
        """The network of a fold, with the reason why it is asked."""
        part = self.parts[fold]
        note = f"Predicted by the network of fold {fold}, which was trained without this patient."
        return Segmenter(part.network, replace(part.spec, card={**part.spec.card, "chosen": note}))

    def alone(self) -> Segmenter:
        """The ensemble as a plain model, for a stranger."""
        return Segmenter(self.network, self.spec)


def content_hash(case: Case) -> str:
    """Hash of the voxels of a case's first channel: the same scan under another name has the same."""
    return hashlib.sha256(np.ascontiguousarray(case.image.data[0]).tobytes()).hexdigest()[:24]


def claims(path: Path) -> bool:
    """True for a folder with folds.json, and for a file NAME.folds.npz."""
    return (path / INDEX).is_file() if path.is_dir() else path.name.endswith(SUFFIX)


def load(
    path: Path, *, trust: bool = False, options: Mapping[str, str] | None = None, fits: bool = False
) -> AbstractSegmenter:
    """Reads all networks. `trust` is not needed: nothing in this format can run; `fits` as for `load_pair`, of a file.

    Raises ModelFileError if a fold is missing or differs in layout, InputError for a `fold` that is not there.
    """
    model = _of_file(path, fits=fits) if path.is_file() else _of_folder(path)
    wanted = (options or {}).get("fold")
    if wanted is None:
        return model
    if not wanted.isdigit() or int(wanted) >= len(model.parts):
        raise InputError(f"Expected fold=0 to fold={len(model.parts) - 1} for {path}, found fold={wanted}.")
    return model.parts[int(wanted)]


def save_folds(path: Path, model: CrossValidated, *, class_name: str, arguments: Mapping[str, object]) -> Path:
    """Writes all networks into one compressed file in half precision, whole or not at all."""
    if not path.name.endswith(SUFFIX):
        raise InputError(f"Expected a file name that ends in {SUFFIX}, found {path.name}.")
    arrays: dict[str, np.ndarray] = {}
    for fold, part in enumerate(model.parts):
        for name, value in part.network.state_dict().items():
            half = value.half() if value.dtype.is_floating_point else value
            arrays[f"fold-{fold}/{name}"] = half.cpu().numpy()
    spec = model.parts[0].spec
    table = {
        "network": {"class": class_name, "arguments": dict(arguments)},
        "spec": spec_table(spec),
        "card": dict(spec.card),
        "folds": {"held_out": [list(f) for f in model.held_out], "contents": [list(f) for f in model.contents]},
        "points": {
            "threshold": [part.spec.threshold for part in model.parts],
            "size": [part.spec.min_size_vox for part in model.parts],
        },
    }
    arrays["description"] = np.frombuffer(tomli_w.dumps(table).encode(), dtype=np.uint8)
    with write_whole(path) as temporary, open(temporary, "wb") as stream:
        np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
    return path


def _of_folder(path: Path) -> CrossValidated:
    try:
        index = json.loads((path / INDEX).read_text(encoding="utf-8"))
        held_out = list(index["held_out"])
        contents = index.get("contents", [])
        if not held_out:
            raise ValueError("no fold")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelFileError(
            f"Expected {path / INDEX} to list the patients of each fold, found something else."
        ) from error
    parts = []
    for fold in range(len(held_out)):
        folder = path / f"fold-{fold}"
        if not (folder / "model.toml").is_file():
            raise ModelFileError(
                f"Expected a trained network for each of {len(held_out)} folds, found none in {folder}: go on training, "
                f"or ask for one that is there with ?fold=k."
            )
        parts.append(load_pair(folder / "model.toml", folder / "model.safetensors"))
    return _checked(parts, held_out, contents, where=path)


def description(path: Path) -> dict[str, Any]:
    """The tables stored in a file of folds: network, spec, card, folds, thresholds; reads no weights."""
    with _opened(path) as archive:
        return parse_toml(archive["description"].tobytes(), where=str(path))


def _of_file(path: Path, *, fits: bool) -> CrossValidated:
    with _opened(path) as archive:
        arrays = {name: archive[name] for name in archive.files if name != "description"}
    table = description(path)
    try:
        class_name, arguments = str(table["network"]["class"]), table["network"]["arguments"]
        held_out, contents = table["folds"]["held_out"], table["folds"]["contents"]
        points = [
            (float(p), int(n)) for p, n in zip(table["points"]["threshold"], table["points"]["size"], strict=True)
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise ModelFileError(
            f"Expected the networks of all folds in {path}, but its description is not whole."
        ) from error
    spec = spec_of(table, where=path)
    parts = []
    for fold, (threshold, size) in enumerate(points):
        start = f"fold-{fold}/"
        state = {k.removeprefix(start): torch.from_numpy(v) for k, v in arrays.items() if k.startswith(start)}
        state = {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
        network = load_weights(build(class_name, arguments, where=str(path)), state, where=f"{path}, fold {fold}")
        if fits:
            take_as_fitting(network, channels=len(spec.channels), outputs=spec.outputs, window=spec.window)
        parts.append(Segmenter(network.eval(), replace(spec, threshold=threshold, min_size_vox=size)))
    return _checked(parts, held_out, contents, where=path)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The archive's arrays, never objects. Raises ModelFileError for a damaged file."""
    sentence = f"Expected the networks of all folds in {path}, but the file is damaged or not one."
    if not zipfile.is_zipfile(path):
        raise ModelFileError(sentence)
    try:
        with np.load(path, allow_pickle=False) as archive:
            yield archive
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ModelFileError(sentence) from error


def _checked(parts: Sequence[Segmenter], held_out: object, contents: object, *, where: Path) -> CrossValidated:
    first = parts[0].spec
    for fold, part in enumerate(parts):
        if (part.spec.channels, part.spec.window, part.spec.spacing_mm) != (
            first.channels,
            first.window,
            first.spacing_mm,
        ):
            raise ModelFileError(f"Expected one layout in all folds, but fold {fold} of {where} differs from fold 0.")
    names, hashes = _names(held_out), _names(contents)
    if len(names) != len(parts) or (hashes and len(hashes) != len(parts)):
        raise ModelFileError(
            f"Expected a list of patients for each of {len(parts)} folds in {where}, found {len(names)}."
        )
    return CrossValidated(tuple(parts), names, hashes)


def _names(value: object) -> tuple[tuple[str, ...], ...]:
    if not isinstance(value, list):
        return ()
    return tuple(tuple(str(v) for v in fold) if isinstance(fold, list) else () for fold in value)
