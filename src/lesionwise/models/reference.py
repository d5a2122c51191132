"""A model by name, for processes that load it themselves."""

import os
from dataclasses import dataclass
from functools import lru_cache

from lesionwise.errors import InputError
from lesionwise.models.zoo import load_model
from lesionwise.segmenter import AbstractSegmenter


@dataclass(frozen=True)
class ModelRef:
    """A model by name or path, with the fingerprint that it must have wherever it is loaded."""

    ref: str
    fingerprint: str
    trust: bool = False

    def load(self, device: str = "cpu") -> AbstractSegmenter:
        """The model, loaded once per process. Raises InputError if it is not the one that the run was started with."""
        return _load(self, device)


@lru_cache(maxsize=1)
def _load(model: ModelRef, device: str) -> AbstractSegmenter:
    loaded = load_model(model.ref, trust=model.trust, device=device)
    if loaded.fingerprint != model.fingerprint:
        raise InputError(
            f"Expected the model {model.ref} with fingerprint {model.fingerprint}, found {loaded.fingerprint} on "
            f"{os.uname().nodename if hasattr(os, 'uname') else 'this machine'}: all workers must see the same files."
        )
    return loaded
