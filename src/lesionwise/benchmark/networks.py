"""The networks that were trained on the planted rules (`scripts/train_planted.py`)."""

from collections.abc import Mapping
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from lesionwise.benchmark.patients import SIDE_VOX
from lesionwise.benchmark.rules import Rule, rule_named
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


def spec_of(rule: Rule, card: Mapping[str, Any]) -> Spec:
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


@lru_cache(maxsize=1)
def network_of(rule: str) -> Segmenter:
    """The shipped network of a rule. Raises InputError for a rule that does not exist."""
    rule_named(rule)
    return load_pair(WEIGHTS / f"{rule}.toml", WEIGHTS / f"{rule}.safetensors")
