"""Keys by content: what a step depends on, as one hash."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lesionwise.geometry.volume import Case
from lesionwise.instances.instance import Instance


def case_key(case: Case) -> str:
    """Hash of everything in a case that a prediction depends on."""
    return digest(
        np.ascontiguousarray(case.image.data).tobytes(),
        np.ascontiguousarray(case.image.affine).tobytes(),
        repr(case.image.channels),
        np.packbits(case.head).tobytes(),
    )


def instance_key(instance: Instance) -> str:
    """Hash of an instance's voxels."""
    return digest(np.ascontiguousarray(instance.voxels).tobytes())


def instances_key(case: Case, prediction_key: str, instances: Sequence[Instance]) -> str:
    """Hash of a scan's lesions and of what their outcomes were judged by."""
    return digest(
        prediction_key,
        b"" if case.reference is None else np.packbits(case.reference).tobytes(),
        *(np.ascontiguousarray(one.voxels).tobytes() + str((one.label, one.outcome)).encode() for one in instances),
    )


def content_key(case: Case) -> str:
    """Hash of all that is in a case: images, head, reference and tissues."""
    masks = {"reference": case.reference, **case.tissue}
    return digest(
        case_key(case),
        *(f"{what} {m is not None}" for what, m in sorted(masks.items())),
        *(np.packbits(m).tobytes() for _, m in sorted(masks.items()) if m is not None),
    )


def digest(*parts: bytes | str) -> str:
    """SHA-256 of the parts, each with its length, as 24 hex digits."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()[:24]


def stored(path: Path) -> Mapping[str, Any]:
    """A sidecar's content, empty if it is missing or broken (the step is then computed again)."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def sidecar(path: Path) -> Path:
    """The JSON beside an image."""
    return path.with_name(path.name.replace(".nii.gz", ".json"))
