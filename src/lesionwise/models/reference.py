"""A model by name, for processes that load it themselves."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lesionwise.errors import InputError
from lesionwise.models.zoo import load_model, names_for
from lesionwise.segmenter import AbstractSegmenter

KEPT = 4
"""Models that a process keeps loaded."""


@dataclass(frozen=True)
class ModelRef:
    """A model by name or path, with the fingerprint that it must have wherever it is loaded."""

    ref: str
    fingerprint: str
    trust: bool = False

    @classmethod
    def of(cls, ref: str, *, trust: bool = False, device: str = "cpu") -> "ModelRef":
        """The reference to a model that is loaded here once, which `load` then gives for this device."""
        model = load_model(ref, trust=trust, device=device)
        path, mark, options = ref.partition("?")
        everywhere = f"{Path(path).resolve()}{mark}{options}" if Path(path).exists() else ref
        found = cls(everywhere, model.fingerprint, trust)
        _remember(found, device, model)
        return found

    def load(self, device: str = "cpu") -> AbstractSegmenter:
        """The model, loaded once per process. Raises InputError if it is not the one that the run was started with."""
        if (self, device) not in _loaded:
            model = load_model(self.ref, trust=self.trust, device=device)
            if model.fingerprint != self.fingerprint:
                raise InputError(
                    f"Expected the model {self.ref} with fingerprint {self.fingerprint}, found {model.fingerprint} on "
                    f"{os.uname().nodename if hasattr(os, 'uname') else 'this machine'}: all workers must see the same "
                    "files."
                )
            _remember(self, device, model)
        return _loaded[self, device]


_loaded: dict[tuple[ModelRef, str], AbstractSegmenter] = {}


def opened(model: AbstractSegmenter | ModelRef, device: str = "cpu") -> AbstractSegmenter:
    """The model itself, whether it was handed over in memory or by name."""
    return model.load(device) if isinstance(model, ModelRef) else model


def references(
    refs: Sequence[str], *, names: Sequence[str] | None = None, trust: bool = False, device: str = "cpu"
) -> dict[str, ModelRef]:
    """Several models by name, named as `load_models` does. Raises InputError if there are not as many names as models."""
    unique = names_for(refs, names)
    return {name: ModelRef.of(ref, trust=trust, device=device) for ref, name in zip(refs, unique, strict=True)}


def _remember(ref: ModelRef, device: str, model: AbstractSegmenter) -> None:
    while len(_loaded) >= KEPT:
        _loaded.pop(next(iter(_loaded)))
    _loaded[ref, device] = model
