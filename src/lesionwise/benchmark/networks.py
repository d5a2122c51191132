"""The networks that were trained on the planted rules (`scripts/train_planted.py`)."""

from collections.abc import Mapping
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from lesionwise.benchmark.patients import SIDE_VOX
from lesionwise.benchmark.rules import RULES, PlantedRule, rule_named
from lesionwise.errors import InputError
from lesionwise.models.statedict import load_pair
from lesionwise.phantom import CHANNELS
from lesionwise.segmenter import Segmenter, Spec

WEIGHTS = Path(str(files("lesionwise.benchmark"))) / "weights"
"""Where the shipped weights lie, in half precision."""
ARGUMENTS: Mapping[str, Any] = {
    "spatial_dims": 3,
    "in_channels": 2,
    "out_channels": 2,
    "channels": (8, 16, 32, 64),
    "strides": (2, 2, 2),
    "num_res_units": 0,
    "act": "relu",
    "norm": "batch",
}
CAM_LAYER = "model.1.submodule.2"
"""The last hidden layer at half resolution, which class activation maps look at."""


def spec_of(rule: PlantedRule, card: Mapping[str, Any]) -> Spec:
    """What must be known about a rule's network."""
    window = (SIDE_VOX, SIDE_VOX, SIDE_VOX)
    return Spec(
        f"planted-{rule.name}",
        CHANNELS,
        window,
        orientation=None,
        spacing_mm=None,
        cam_layer=CAM_LAYER,
        card=dict(card),
    )


def shipped() -> tuple[str, ...]:
    """Rules whose network ships, in the order of `RULES`."""
    return tuple(rule for rule in RULES if (WEIGHTS / f"{rule}.safetensors").is_file())


@lru_cache(maxsize=1)
def network_of(rule: str) -> Segmenter:
    """The shipped network of a rule. Raises InputError for a rule that does not exist or has no network."""
    rule_named(rule)
    if rule not in shipped():
        raise InputError(
            f"Expected a rule whose network ships ({', '.join(shipped())}), found {rule}: scripts/train_planted.py trains it."
        )
    return load_pair(WEIGHTS / f"{rule}.toml", WEIGHTS / f"{rule}.safetensors")
