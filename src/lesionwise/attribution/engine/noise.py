"""Noise that is a function of (seed, draw, channel, voxel) alone, so that no batch, window or device changes a map.

SplitMix64 (Steele 2014) used as a counter-based generator: the 64-bit hash of `key + voxel * golden ratio` gives two
32-bit uniforms, and Box-Muller turns them into the normal deviates of two channels. `key` hashes seed, draw and channel
pair. Integer arithmetic wraps alike on every device, so values agree beyond rounding of log, sqrt, cos and sin.
"""

import math
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lesionwise.geometry.box import Box
from lesionwise.types import Shape

_GOLDEN = 0x9E3779B97F4A7C15
_FIRST, _SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_MASK_64 = (1 << 64) - 1
_PLANES = 8  # planes hashed at a time, so that intermediates stay in the processor's cache


def normal(
    box: Box, shape: Shape, *, channels: int, seed: int, draw: int, dtype: torch.dtype, device: torch.device | str
) -> Float[Tensor, "channels i j k"]:
    """Standard normal deviates of one draw inside `box` of a grid of `shape`."""
    out = torch.empty((channels, *box.shape), dtype=dtype, device=device)
    rows = _flat_index(box, shape, device)
    step = _PLANES if rows.device.type == "cpu" else max(box.shape[0], 1)
    for pair in range((channels + 1) // 2):
        key = _signed(_hash(_hash(_hash(seed) + draw) + pair))
        for start in range(0, box.shape[0], step):
            part = slice(start, start + step)
            first, second = _box_muller(_hash_tensor(rows[part] * _signed(_GOLDEN) + key), dtype)
            out[2 * pair, part] = first
            if 2 * pair + 1 < channels:
                out[2 * pair + 1, part] = second
    return out


def uniform(count: int, *, seed: int, stream: int) -> Float[np.ndarray, " count"]:
    """`count` uniform deviates in [0, 1), a function of (seed, stream, position)."""
    bits = [_hash(_hash(_hash(seed) + stream) + n) for n in range(count)]
    return np.array([(b >> 11) * 2.0**-53 for b in bits])


def random_subset(voxels: Int[np.ndarray, "voxels 3"], count: int, *, seed: int) -> Int[np.ndarray, "chosen 3"]:
    """`count` of the voxels, chosen by a hash of (seed, voxel): the order in which they come does not matter."""
    if len(voxels) <= count:
        return voxels
    key = _hash(_hash(seed) + 0x6D6178)
    ranks = [_hash(key + (int(i) << 42 | int(j) << 21 | int(k))) for i, j, k in voxels]
    return voxels[np.sort(np.argsort(np.array(ranks, dtype=np.uint64), kind="stable")[:count])]


def spread(
    image: Float[Tensor, "channels i j k"],
    head: Bool[Tensor, "i j k"],
    *,
    noise: float,
    rule: Literal["percentiles", "published"] = "percentiles",
    leading_channel: int = 0,
) -> Float[np.ndarray, " channels"]:
    """sigma_c of the noise per channel, in the units fed to the network.

    "percentiles": noise x (99.5th - 0.5th percentile of channel c in the head). "published": noise x (maximum - minimum
    of the leading channel over the whole image), for all channels.
    """
    values = image.detach().to("cpu").numpy()
    if rule == "published":
        extent = float(values[leading_channel].max() - values[leading_channel].min())
        return np.full(len(values), noise * extent)
    inside = head.detach().to("cpu").numpy()
    if not inside.any():
        return np.zeros(len(values))
    return np.array([noise * float(np.subtract(*np.percentile(channel[inside], [99.5, 0.5]))) for channel in values])


def _flat_index(box: Box, shape: Shape, device: torch.device | str) -> Tensor:
    i, j, k = (torch.arange(a, b, device=device) for a, b in zip(box.start, box.stop, strict=True))
    return (i[:, None, None] * shape[1] + j[None, :, None]) * shape[2] + k[None, None, :]


def _box_muller(bits: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    radius = ((bits >> 32) & 0xFFFFFFFF).to(wide).add_(0.5).mul_(2.0**-32).log_().mul_(-2.0).clamp_(min=0).sqrt_()
    angle = (bits & 0xFFFFFFFF).to(wide).mul_(2.0 * math.pi * 2.0**-32)
    return (radius * torch.cos(angle)).to(dtype), radius.mul_(angle.sin_()).to(dtype)


def _hash_tensor(x: Tensor) -> Tensor:
    """SplitMix64's finaliser on int64 whose bits stand for unsigned numbers; overwrites `x`."""
    x ^= (x >> 30) & ((1 << 34) - 1)
    x *= _signed(_FIRST)
    x ^= (x >> 27) & ((1 << 37) - 1)
    x *= _signed(_SECOND)
    x ^= (x >> 31) & ((1 << 33) - 1)
    return x


def _hash(value: int) -> int:
    """The same on a Python integer."""
    x = (value + _GOLDEN) & _MASK_64
    x = ((x ^ (x >> 30)) * _FIRST) & _MASK_64
    x = ((x ^ (x >> 27)) * _SECOND) & _MASK_64
    return x ^ (x >> 31)


def _signed(value: int) -> int:
    """The int64 with the same bits."""
    value &= _MASK_64
    return value - (1 << 64) if value >= 1 << 63 else value
