"""Puts trained weights into the package: half precision on disk, and a TOML that says how to run them.

python scripts/export_builtin.py WEIGHTS.safetensors --threshold 0.5 --min-size 6 --facts RUN/facts.json
"""

import argparse
import json
from pathlib import Path

from monai.networks.nets import UNet
from safetensors.torch import load_file
from train_builtin import NETWORK

from lesionwise.models.statedict import save_model
from lesionwise.segmenter import Spec


def main() -> None:
    """Reads the command line, writes weights/builtin.*."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--threshold", type=float, required=True)
    parser.add_argument("--min-size", type=int, required=True)
    parser.add_argument("--facts", type=Path, required=True)
    parser.add_argument("--to", type=Path, default=Path("src/lesionwise/models/weights"))
    arguments = parser.parse_args()
    network = UNet(**NETWORK)
    network.load_state_dict(load_file(arguments.weights))
    facts = json.loads(arguments.facts.read_text())
    card = {
        "summary": "3-D U-Net (FLAIR, T1w), trained on synthetic patients only",
        "data": "synthetic patients of lesionwise.phantom; no real scan was trained on or tuned to",
        "recipe": "scripts/train_builtin.py; soft Dice + cross-entropy, AdamW, averaged weights, patches of 64^3",
        "threshold_from": "held-out synthetic patients",
        "not_for": "diagnosis, treatment, or any decision about a person",
        "documentation": "docs/model-card.md",
        **facts,
    }
    spec = Spec(
        name="builtin",
        channels=("FLAIR", "T1w"),
        window=(96, 96, 96),
        overlap=0.25,
        threshold=arguments.threshold,
        min_size_vox=arguments.min_size,
        receptive_field_vox=tuple(receptive_field_vox()),
        card=card,
    )
    save_model(
        arguments.to,
        network.half(),
        spec,
        class_name="monai.networks.nets.UNet",
        arguments=NETWORK,
        name="builtin",
    )


def receptive_field_vox() -> list[int]:
    """Theoretical receptive field: the widest reach of any output voxel, from exact zeros of a derivative."""
    import torch

    torch.manual_seed(0)
    network = UNet(**NETWORK).double().eval()
    for parameter in network.parameters():
        parameter.data = parameter.data.abs() + 1e-3  # no path can cancel another
    side = 16 * 12
    reach = 0
    for offset in range(16):
        x = torch.ones((1, NETWORK["in_channels"], side, 48, 48), dtype=torch.float64, requires_grad=True)
        network(x)[0, 0, side // 2 + offset, 24, 24].backward()
        touched = x.grad.abs().sum((0, 1, 3, 4)).nonzero().ravel()
        reach = max(reach, int(touched.max() - touched.min()) + 1)
    return [reach] * 3


if __name__ == "__main__":
    main()
