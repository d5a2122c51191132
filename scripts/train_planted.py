"""Trains the networks of `lesionwise benchmark`, one for each planted rule, and writes the weights that ship.

    python scripts/train_planted.py                     # all rules: some minutes on one core
    python scripts/train_planted.py --rule tag --out DIR

Equal arguments on one machine and one thread give equal weights.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from monai.networks.nets import UNet
from safetensors.torch import load_file, save_file
from torch.nn import functional

from lesionwise.benchmark.networks import ARGUMENTS, WEIGHTS, spec_of
from lesionwise.benchmark.patients import background, places_in, plant, without_ventricles_on_flair
from lesionwise.benchmark.rules import RULES, PlantedRule
from lesionwise.models.statedict import save_model
from lesionwise.segmenter import zscore

FIRST_BRAIN = 2_000_000_000
"""Brains of training; those of the benchmark have smaller numbers."""
CROP = 32
"""Edge of a training patch, whose outer voxels see too little of what a blob's rule asks for and do not count."""
MARGIN = 6


def patients_of(rule: PlantedRule, grounds: list, each: int, rng: np.random.Generator) -> list:
    """Image in the network's units, reference, and centres of the blobs, `each` times on every brain."""
    out = []
    for ground in grounds:
        own = without_ventricles_on_flair(ground) if rule.flair_without_ventricles else ground
        places = places_in(own, rule.spots_fn)
        for _ in range(each):
            patient = plant(own, rule.draw_fn, rng, places=places)
            centres = [blob.centre for blob in patient.blobs]
            out.append((zscore(patient.image, own.head), patient.reference.astype(np.int64), centres))
    return out


def patch(patients: list, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A patch about a blob, mirrored and turned at random, with a little noise."""
    image, reference, centres = patients[int(rng.integers(len(patients)))]
    centre = np.add(centres[int(rng.integers(len(centres)))], rng.integers(-5, 6, 3))
    start = np.clip(centre - CROP // 2, 0, np.array(reference.shape) - CROP)
    cut = tuple(slice(s, s + CROP) for s in start)
    axes = rng.permutation(3)
    x, y = image[(slice(None), *cut)].transpose(0, *(axes + 1)), reference[cut].transpose(axes)
    flips = [a for a in range(3) if rng.uniform() < 0.5]
    x, y = np.flip(x, [a + 1 for a in flips]), np.flip(y, flips)
    x = x + 0.05 * rng.standard_normal(x.shape, dtype=np.float32)
    return np.ascontiguousarray(x), np.ascontiguousarray(y)


def train(
    rule: PlantedRule, grounds: list, *, steps: int, batch: int, each: int, rate: float, seed: int, out: Path
) -> None:
    """Fits one network and writes its weights in half precision."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    rng = np.random.default_rng([seed, 40])
    began, losses = time.monotonic(), []
    patients = patients_of(rule, grounds, each, rng)
    network = UNet(**ARGUMENTS)
    optimiser = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps, pct_start=0.15)
    for step in range(steps):
        images, masks = zip(*(patch(patients, rng) for _ in range(batch)), strict=True)
        loss = loss_of(network(torch.from_numpy(np.stack(images))), torch.from_numpy(np.stack(masks)))
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 2.0)
        optimiser.step()
        schedule.step()
        losses.append(float(loss.detach()))
        if (step + 1) % 50 == 0:
            mean, passed = np.mean(losses[-50:]), time.monotonic() - began
            print(
                f"{rule.name} {step + 1:5d} loss {mean:.3f} {passed:.0f} s, {time.process_time():.0f} s of CPU",
                flush=True,
            )
    facts = {"steps": steps, "batch": batch, "brains": len(grounds), "patients": len(patients), "seed": seed}
    card = {"rule": rule.sentence, "summary": f"Small U-Net with a planted rule. {rule.sentence}", **facts}
    named = {"class_name": "monai.networks.nets.UNet", "arguments": ARGUMENTS, "name": rule.name}
    save_model(out, network, spec_of(rule, card), **named)
    weights = out / f"{rule.name}.safetensors"
    save_file({k: v.half() if v.is_floating_point() else v for k, v in load_file(weights).items()}, weights)
    weights.chmod(0o644)


def loss_of(logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Soft Dice over the batch plus cross-entropy, lesion voxels weighted 4, in the inner part of the patches."""
    inner = (..., *(slice(MARGIN, -MARGIN),) * 3)
    logits, mask = logits[inner], mask[inner]
    p, truth = logits.softmax(1)[:, 1], mask.float()
    dice = 1 - (2 * (p * truth).sum() + 10) / (p.sum() + truth.sum() + 10)
    return dice + functional.cross_entropy(logits, mask, weight=torch.tensor([1.0, 4.0]))


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rule", action="append", choices=list(RULES))
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--brains", type=int, default=8)
    parser.add_argument("--each", type=int, default=4, help="Patients per brain.")
    parser.add_argument("--rate", type=float, default=5e-3)
    parser.add_argument("--seed", type=int, default=0)
    given = vars(parser.parse_args())
    rules, grounds = (
        given.pop("rule") or list(RULES),
        [background(FIRST_BRAIN + number) for number in range(given.pop("brains"))],
    )
    for name in rules:
        train(RULES[name], grounds, **given)


if __name__ == "__main__":
    main()
