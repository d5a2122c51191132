"""Puts trained weights into the package: half precision on disk, and a TOML that says how to run them.

    python scripts/export_builtin.py --folds RUN --all ALL      # RUN: train --fold all; ALL: train --validation 0
    python scripts/export_builtin.py --folds RUN --name dynunet

Threshold, smallest lesion and calibration come from RUN's patients, each judged by the network that has not seen them
(RUN/out-of-fold.json); ALL's own patients judge nothing. Writes weights/NAME.toml + .safetensors, if there is an ALL, and
weights/NAME-folds.folds.npz. A network whose normalisation takes its figures from the window keeps the window it learnt with.
"""

import argparse
import json
import tomllib
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lesionwise.models.architecture import build
from lesionwise.models.folds import SUFFIX, CrossValidated, save_folds
from lesionwise.models.statedict import load_pair, save_model
from lesionwise.models.zoo import load_model
from lesionwise.norms import normalises_by_itself
from lesionwise.segmenter import Segmenter, Spec
from lesionwise.train.operating_point import VoxelCalibration, calibrated_probability, calibrated_weights

SOURCES = "open MS data (doi:10.1007/s12021-017-9348-7), MSLesSeg (doi:10.1038/s41597-025-05250-y), MS3SEG (figshare 30393475)"

WINDOW = (96, 96, 96)
"""Of prediction, in voxels, where a network does not depend on its window."""


def main() -> None:
    """Reads the command line, writes the weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folds", type=Path, required=True)
    parser.add_argument("--all", type=Path)
    parser.add_argument("--name", default="builtin")
    parser.add_argument("--to", type=Path, default=Path("src/lesionwise/models/weights"))
    arguments = parser.parse_args()
    folds = load_model(arguments.folds)
    if not isinstance(folds, CrossValidated):
        raise SystemExit(f"Expected a cross-validated run in {arguments.folds}.")
    table = tomllib.loads((arguments.folds / "fold-0" / "config.toml").read_text())
    class_name, layout = table["network"]["class"], table["network"]["arguments"]
    facts = json.loads((arguments.folds / "out-of-fold.json").read_text())
    calibration = VoxelCalibration(**facts["calibration"])
    by_window = normalises_by_itself(folds.parts[0].network)
    described = partial(
        ships,
        calibration=calibration,
        window=folds.spec.window if by_window else WINDOW,
        reach=None if by_window else receptive_field_vox(class_name, layout),
        training=training(table["recipe"]),
    )
    if arguments.all is not None:
        whole = load_pair(arguments.all / "model.toml", arguments.all / "model.safetensors")
        spec = described(whole.spec, arguments.name, facts["strangers"])
        network = calibrated_weights(inner(whole.network), calibration)
        save_model(arguments.to, network.half(), spec, class_name=class_name, arguments=layout, name=arguments.name)
    name = f"{arguments.name}-folds"
    parts = [
        Segmenter(calibrated_weights(inner(part.network), calibration), described(part.spec, name, point))
        for part, point in zip(folds.parts, facts["folds"], strict=True)
    ]
    save_folds(
        arguments.to / f"{name}{SUFFIX}",
        CrossValidated(tuple(parts), folds.held_out, folds.contents),
        class_name=class_name,
        arguments=layout,
    )


def training(recipe: dict[str, Any]) -> dict[str, Any]:
    """What the card says of how a network was trained. A run that went on from another one counts that one's steps, too."""
    facts = {"steps": recipe["epochs"] * recipe["steps"], "start": recipe["start"], "mixed": recipe["mix"] > 0}
    earlier = load_model(recipe["start"]).spec.card if recipe["start"] else {}
    if "start" in earlier:
        facts |= {"steps": facts["steps"] + int(earlier["steps"]), "start": earlier["start"]}
    return {"network": recipe["network"], **facts}


def ships(
    spec: Spec,
    name: str,
    point: dict[str, Any],
    *,
    calibration: VoxelCalibration,
    window: tuple[int, int, int],
    reach: tuple[int, int, int] | None,
    training: dict[str, Any],
) -> Spec:
    """The spec that ships: the operating point on calibrated probabilities, and a card that says where it comes from."""
    kind = {"unet": "3-D U-Net", "dynunet": "DynUNet", "swinunetr": "Swin UNETR"}[training["network"]]
    card = {
        "summary": f"{kind} (FLAIR, T1w or FLAIR alone), trained on fourteen real patients"
        + (" and synthetic ones" if training["mixed"] else ""),
        "data": f"fourteen people: {SOURCES}" + ("; and synthetic patients of lesionwise.phantom" * training["mixed"]),
        "patients": point["patients"],
        "recipe": "lesionwise train --recipe small-data, in one run or several; see docs/model-card.md",
        "threshold_from": f"{point['patients']} patients, each predicted by a network that has not seen them",
        "calibration": f"Platt, out of fold: log-odds x {calibration.scale:.3f} {calibration.shift:+.3f}",
        "not_for": "diagnosis, treatment, or any decision about a person",
        "documentation": "docs/model-card.md",
        "steps": training["steps"],
        **({"start": training["start"]} if training["start"] else {}),
    }
    return replace(
        spec,
        name=name,
        window=window,
        threshold=round(calibrated_probability(point["threshold"], calibration), 4),
        min_size_vox=point["min_size_vox"],
        receptive_field_vox=reach,
        card=card,
    )


def inner(network: nn.Module) -> nn.Module:
    """The network without the wrapper that picks its full-resolution output."""
    return getattr(network, "network", network)


def receptive_field_vox(class_name: str, layout: dict) -> tuple[int, int, int]:
    """Theoretical receptive field: the widest reach of any output voxel, from exact zeros of a derivative."""
    torch.manual_seed(0)
    network = build(class_name, layout, where="the layout").double().eval()
    for parameter in network.parameters():
        parameter.data = parameter.data.abs() + 1e-3  # no path can cancel another
    side, reach = 16 * 12, 0
    for offset in range(16):
        x = torch.ones((1, layout["in_channels"], side, 48, 48), dtype=torch.float64, requires_grad=True)
        network(x)[0, 0, side // 2 + offset, 24, 24].backward()
        touched = x.grad.abs().sum((0, 1, 3, 4)).nonzero().ravel()
        reach = max(reach, int(touched.max() - touched.min()) + 1)
    return (reach, reach, reach)


if __name__ == "__main__":
    main()
