"""`config.toml`: the effective settings of an output folder, written beside every output."""

from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from platform import python_version
from typing import Any

import tomli_w

from lesionwise.attribution.target import AbstractTarget
from lesionwise.io.files import write_text
from lesionwise.units import Settings

PACKAGES = ("torch", "monai", "numpy", "scipy", "nibabel", "nilearn")


def write_config(
    out: Path, settings: Settings, model: Mapping[str, Any], *, version: str, triage: Mapping[str, str] | None = None
) -> Path:
    """Writes `OUT/config.toml`: settings, model with its fingerprint, triage model if there is one, versions."""
    method = settings.method
    chosen = {key: value for key, value in vars(settings).items() if key != "method"}
    content = {
        "lesionwise": version,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "settings": _plain(chosen),
        "method": {"name": method.name, **_plain(asdict(method) if is_dataclass(method) else {})},
        "model": _plain(dict(model)),
        **({} if triage is None else {"triage": dict(triage)}),
        "versions": {"python": python_version(), **{name: metadata.version(name) for name in PACKAGES}},
    }
    path = out / "config.toml"
    write_text(path, tomli_w.dumps(content))
    return path


def _plain(value: Any) -> Any:
    """TOML has no null: keys without a value are left out."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items() if v is not None}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, AbstractTarget):
        return value.name
    return value if isinstance(value, str | int | float | bool) else str(value)
