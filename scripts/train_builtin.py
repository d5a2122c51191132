"""Trains the built-in model on synthetic patients only.

    python scripts/train_builtin.py pool  --pool POOL --patients 64 --first 100000
    python scripts/train_builtin.py train --pool POOL --run RUN --minutes 60
    python scripts/train_builtin.py choose --run RUN --patients 16 --first 900000     # threshold, smallest lesion
    python scripts/train_builtin.py export --run RUN

The pool holds anatomy, lesions and bright non-lesions as soft maps, without any scanner. Contrast, bias, resolution,
noise and skull stripping are drawn anew for every patch, so no patch is seen twice. Real scans are never read.
"""

import argparse
import json
import math
import multiprocessing
import queue
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from monai.networks.nets import UNet
from safetensors.torch import load_file, save_file
from scipy import ndimage
from torch.nn import functional

from lesionwise.phantom.contrast import draw_contrast
from lesionwise.phantom.patient import build_scene, image_of

NETWORK = {
    "spatial_dims": 3,
    "in_channels": 2,
    "out_channels": 2,
    "channels": [24, 48, 96, 128, 160],
    "strides": [2, 2, 2, 2],
    "num_res_units": 0,
    "norm": "BATCH",
}
PATCH = 64
MARGIN = 5
SIGNED_MM = {"ventricle_mm": (-10, 40), "depth_mm": (-8, 40)}
SCRIPT_VERSION = 1


# ---------------------------------------------------------------- pool


def make_pool(arguments) -> None:
    """Writes soft maps of synthetic patients as uint8, one folder per patient."""
    torch.set_num_threads(1)
    for seed in range(arguments.first, arguments.first + arguments.patients):
        target = arguments.pool / f"{seed}"
        if (target / "done").exists():
            continue
        scene = build_scene(seed)
        reference = (scene.lesions.soft * (1 - scene.anatomy.fluid) > 0.5) & (scene.anatomy.fluid < 0.4)
        tissue = (scene.anatomy.fluid < 0.5) & (scene.anatomy.depth_mm > -2)
        closed = ndimage.minimum_filter(ndimage.maximum_filter(tissue, size=7), size=7)
        maps = {**scene.maps, "inner": ndimage.binary_fill_holes(closed).astype(np.float32)}
        index = maps.pop("index")
        names = sorted(maps)
        stack = np.stack([_pack(name, maps[name]) for name in names] + [reference.astype(np.uint8)])
        keep = ndimage.find_objects((maps["depth_mm"] > -5).astype(np.int8))[0]
        target.mkdir(parents=True, exist_ok=True)
        np.save(target / "maps.npy", np.ascontiguousarray(stack[(slice(None), *keep)]))
        np.save(target / "index.npy", np.ascontiguousarray(index[keep]))
        np.save(target / "deviates.npy", np.array([(p.brightness, p.darkness) for p in scene.lesions.plans]))
        np.save(target / "spots.npy", _spots(reference[keep], {k: v[keep] for k, v in maps.items()}, seed))
        (target / "names.json").write_text(json.dumps(names))
        (target / "done").touch()


def _pack(name: str, values: np.ndarray) -> np.ndarray:
    low, high = SIGNED_MM.get(name, (0, 1))
    return np.round((np.clip(values, low, high) - low) * (255 / (high - low))).astype(np.uint8)


def _spots(reference: np.ndarray, maps: dict, seed: int) -> np.ndarray:
    """Patch centres (n, 4): kind (0 lesion, 1 look-alike or border, 2 anywhere) and voxel."""
    rng = np.random.default_rng(seed)
    rows = []
    labels, _ = ndimage.label(reference, np.ones((3, 3, 3)))
    for found in ndimage.find_objects(labels):
        voxels = np.argwhere(reference[found]) + [s.start for s in found]
        picks = rng.choice(len(voxels), min(len(voxels), 1 + len(voxels) // 400))
        rows += [(0, *voxels[p]) for p in picks]
    brain = maps["depth_mm"] > 0
    hard = brain & ((maps["rim"] > 0.6) | (maps["insula"] > 0.5) | (maps["cerebellum"] + maps["stem"] > 0.5))
    for kind, mask in ((1, hard), (2, brain)):
        voxels = np.argwhere(mask)
        rows += [(kind, *voxels[p]) for p in rng.choice(len(voxels), 200)]
    return np.array(rows, dtype=np.int32)


# ---------------------------------------------------------------- patches


class PatientPool:
    """Patients on disk; more may arrive while training."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.open: dict[str, tuple] = {}
        self.refresh()

    def refresh(self) -> None:
        """Looks for new patients."""
        for done in sorted(self.folder.glob("*/done")):
            path = done.parent
            if path.name not in self.open:
                names = json.loads((path / "names.json").read_text())
                arrays = [np.load(path / f"{n}.npy", mmap_mode="r") for n in ("maps", "index")]
                self.open[path.name] = (names, *arrays, np.load(path / "deviates.npy"), np.load(path / "spots.npy"))

    def patch(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """A z-scored patch (2, 64, 64, 64) float16 and its mask (64, 64, 64)."""
        names, maps, index, deviates, spots = self.open[str(rng.choice(sorted(self.open)))]
        kind = rng.choice(3, p=[0.5, 0.28, 0.22])
        rows = spots[spots[:, 0] == kind]
        centre = (rows if len(rows) else spots)[rng.integers(len(rows) or len(spots)), 1:]
        wide = PATCH + 2 * MARGIN
        start = np.clip(centre - rng.integers(8, PATCH - 8, 3) - MARGIN, -MARGIN, None)
        start = np.minimum(start, np.array(index.shape) - wide + MARGIN)
        start = np.maximum(start, 0) if rng.uniform() < 0.5 else start
        block = _cut(maps, start, wide, names) | {"index": _cut_index(index, start, wide)}
        contrast = draw_contrast(rng, wide=rng.uniform() < 0.7)
        flair = replace(contrast.flair, lesion=max(contrast.flair.lesion, 4 * contrast.flair.noise))
        contrast = replace(contrast, flair=flair)  # what noise hides, nobody can mark
        scales = _lesion_scales(rng, contrast)
        plans = [_Deviates(*row) for row in deviates]
        thin = {n: _unpack(n, maps[k, ::5, ::5, ::5]) for k, n in enumerate(names)} | {"index": index[::5, ::5, ::5]}
        whole, head = image_of(rng, thin, contrast, plans, scales=scales, step_mm=5.0)
        inner = rng.uniform() < 0.8
        head &= (thin["inner"] > 0.5) if inner else True
        image, kept = image_of(rng, block, contrast, plans, scales=scales)
        kept &= (block["inner"] > 0.5) if inner else True
        out = np.empty_like(image)
        for c, channel in enumerate((contrast.flair, contrast.t1w)):
            values = whole[c][head]
            sd = math.sqrt(float(values.var()) + 0.7 * channel.noise**2) + 1e-6
            out[c] = np.where(kept, (image[c] - values.mean()) / sd, 0)
            out[c] = np.where(kept, out[c] * rng.uniform(0.85, 1.15) + rng.normal(0, 0.12), 0)
        inside = (slice(MARGIN, -MARGIN),) * 3
        mask = block["reference"][inside] > 0.5
        return np.clip(out[(slice(None), *inside)], -12, 12).astype(np.float16), mask & kept[inside]


class _Deviates:
    """What image_of needs of a lesion plan."""

    def __init__(self, brightness: float, darkness: float) -> None:
        self.brightness, self.darkness = brightness, darkness


def _lesion_scales(rng: np.random.Generator, contrast) -> dict[str, float]:
    """Most patients as drawn; some with lesions that T1w does not show at all."""
    return {"FLAIR": 1.0, "T1w": 0.0 if rng.uniform() < 0.15 else 1.0}


def _cut(maps: np.ndarray, start: np.ndarray, wide: int, names: list[str]) -> dict[str, np.ndarray]:
    size = np.array(maps.shape[1:])
    low, high = np.maximum(start, 0), np.minimum(start + wide, size)
    values = np.asarray(maps[:, low[0] : high[0], low[1] : high[1], low[2] : high[2]])
    pad = [(int(a), int(b)) for a, b in zip(low - start, start + wide - high, strict=True)]
    out = {}
    for k, name in enumerate([*names, "reference"]):
        edge = "edge" if name in SIGNED_MM else "constant"
        unpacked = _unpack(name, values[k]) if name != "reference" else values[k].astype(np.float32)
        out[name] = np.pad(unpacked, pad, mode=edge)
    outside = np.pad(np.zeros(values.shape[1:], bool), pad, constant_values=True)
    out["depth_mm"][outside] = -8
    return out


def _cut_index(index: np.ndarray, start: np.ndarray, wide: int) -> np.ndarray:
    low, high = np.maximum(start, 0), np.minimum(start + wide, index.shape)
    values = np.asarray(index[low[0] : high[0], low[1] : high[1], low[2] : high[2]])
    return np.pad(values, [(int(a), int(b)) for a, b in zip(low - start, start + wide - high, strict=True)])


def _unpack(name: str, values: np.ndarray) -> np.ndarray:
    low, high = SIGNED_MM.get(name, (0, 1))
    return values.astype(np.float32) * np.float32((high - low) / 255) + np.float32(low)


def _render_forever(folder: Path, seed: int, outbox) -> None:
    torch.set_num_threads(1)
    rng, pool, made = np.random.default_rng(seed), PatientPool(folder), 0
    while True:
        if made % 50 == 0:
            pool.refresh()
        outbox.put(pool.patch(rng))
        made += 1


class PatchStream:
    """Batches from a reservoir that worker processes keep renewing; flips and gain on the fly."""

    def __init__(self, folder: Path, *, workers: int, seed: int, reservoir: int = 320) -> None:
        context = multiprocessing.get_context("fork")
        self.inbox = context.Queue(maxsize=24)
        self.workers = [
            context.Process(target=_render_forever, args=(folder, seed + 17 * w, self.inbox), daemon=True)
            for w in range(workers)
        ]
        for worker in self.workers:
            worker.start()
        self.rng = np.random.default_rng(seed)
        self.held: list = []
        self.size, self.received = reservoir, 0

    def batch(self, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(n, 2, 64, 64, 64) float32 and (n, 64, 64, 64) int64."""
        while len(self.held) < 8 * n:
            self.held.append(self.inbox.get())
            self.received += 1
        for _ in range(n):
            try:
                fresh = self.inbox.get_nowait()
            except queue.Empty:
                break
            self.received += 1
            if len(self.held) < self.size:
                self.held.append(fresh)
            else:
                self.held[self.rng.integers(self.size)] = fresh
        images, masks = [], []
        for pick in self.rng.choice(len(self.held), n, replace=False):
            image, mask = self.held[pick]
            for axis, chance in ((1, 0.5), (2, 0.15), (3, 0.15)):
                if self.rng.uniform() < chance:
                    image, mask = np.flip(image, axis), np.flip(mask, axis - 1)
            gain = self.rng.uniform(0.92, 1.08, (2, 1, 1, 1)).astype(np.float32)
            images.append(image.astype(np.float32) * gain)
            masks.append(mask.astype(np.int64))
        return torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(masks))

    def close(self) -> None:
        """Ends the workers."""
        for worker in self.workers:
            worker.terminate()


# ---------------------------------------------------------------- training


def loss_of(logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Soft Dice over the batch plus cross-entropy, lesion voxels weighted 1.5."""
    p = logits.softmax(1)[:, 1]
    truth = mask.float()
    dice = 1 - (2 * (p * truth).sum() + 10) / (p.sum() + truth.sum() + 10)
    entropy = functional.cross_entropy(logits, mask, weight=torch.tensor([1.0, 1.5]))
    return dice + entropy


def train(arguments) -> None:
    """Runs for a fixed time; writes averaged weights every three minutes."""
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(arguments.threads)
    arguments.run.mkdir(parents=True, exist_ok=True)
    stream = PatchStream(arguments.pool, workers=arguments.workers, seed=arguments.seed)
    network = UNet(**NETWORK).to(memory_format=torch.channels_last_3d)
    if arguments.start:
        network.load_state_dict(load_file(arguments.start))
    average = {k: v.detach().clone() for k, v in network.state_dict().items()}
    optimiser = torch.optim.AdamW(network.parameters(), lr=arguments.rate, weight_decay=1e-4)
    began, saved, step, shown = time.monotonic(), time.monotonic(), 0, []
    limit = arguments.minutes * 60
    while (elapsed := time.monotonic() - began) < limit:
        share = elapsed / limit
        for group in optimiser.param_groups:
            group["lr"] = (
                arguments.rate * min(1.0, (step + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * share)))
            )
        images, mask = stream.batch(arguments.batch)
        images = images.to(memory_format=torch.channels_last_3d)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = network(images)
        loss = loss_of(logits.float(), mask)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimiser.step()
        step += 1
        decay = min(0.998, (1 + step) / (20 + step))
        for key, value in network.state_dict().items():
            if value.dtype.is_floating_point:
                average[key].lerp_(value, 1 - decay)
            else:
                average[key].copy_(value)
        shown.append(float(loss.detach()))
        if step % 50 == 0:
            line = f"{elapsed:7.0f} s  step {step:6d}  loss {np.mean(shown[-50:]):.4f}  patches {stream.received}"
            with open(arguments.run / "log.txt", "a") as log:
                log.write(line + f"  patients {len(list(arguments.pool.glob('*/done')))}\n")
        if time.monotonic() - saved > 180:
            saved = time.monotonic()
            _save(arguments.run, average, step, elapsed, arguments)
    _save(arguments.run, average, step, elapsed, arguments)
    stream.close()


def _save(run: Path, average: dict, step: int, elapsed: float, arguments) -> None:
    half = {k: v.contiguous() for k, v in average.items()}
    save_file(half, run / "last.tmp")
    (run / "last.tmp").rename(run / "last.safetensors")
    save_file(half, run / f"step-{step:06d}.safetensors")
    facts = {"steps": step, "hours": round(elapsed / 3600, 3), "seed": arguments.seed, "batch": arguments.batch}
    (run / "facts.json").write_text(json.dumps({**facts, "rate": arguments.rate, "minutes": arguments.minutes}))


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=["pool", "train"])
    parser.add_argument("--pool", type=Path)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--start", type=Path)
    parser.add_argument("--patients", type=int, default=64)
    parser.add_argument("--first", type=int, default=100_000)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    {"pool": make_pool, "train": train}[arguments.stage](arguments)


if __name__ == "__main__":
    main()
