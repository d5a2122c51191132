"""Networks whose behaviour is known by construction, and a small scan to ask them about."""

import numpy as np
import pandas as pd
import torch
from torch import nn

from lesionwise.asking.scan import Scan
from lesionwise.attribution import Gradient
from lesionwise.geometry.volume import Case, ScanName, Volume
from lesionwise.segmenter import Segmenter, Spec
from lesionwise.units import Settings, explain_case, find_case

SHAPE = (32, 32, 32)
LESIONS = (((10, 10, 12), 2), ((20, 21, 16), 3))


def ball(centre, radius, shape=SHAPE):
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1)
    return ((grid - np.asarray(centre)) ** 2).sum(-1) <= radius**2


class Linear(nn.Module):
    """Logit 1 = sum over channels of a box filter of the image times its weight, minus a bias; logit 0 = 0.

    `width` 1 reads the voxel alone; `surround` subtracts that share of a wider box (a centre-surround network).
    """

    def __init__(self, weights, *, width=1, bias=1.0, surround=0.0, surround_width=9):
        super().__init__()
        surround_width = surround_width if surround else width
        kernel = torch.zeros(1, len(weights), surround_width, surround_width, surround_width)
        low, high = (surround_width - width) // 2, (surround_width + width) // 2
        inner = (slice(low, high),) * 3
        for c, w in enumerate(weights):
            kernel[0, c] -= surround * w / surround_width**3
            kernel[(0, c, *inner)] += w / width**3
        self.conv = nn.Conv3d(len(weights), 1, surround_width, padding=surround_width // 2)
        with torch.no_grad():
            self.conv.weight.copy_(kernel)
            self.conv.bias.fill_(-bias)

    def forward(self, x):
        z = self.conv(x)
        return torch.cat([torch.zeros_like(z), z], dim=1)


class Normed(nn.Module):
    """A convolution after instance normalisation: what is far away changes what is near."""

    def __init__(self):
        super().__init__()
        self.norm = nn.InstanceNorm3d(2)
        self.inner = Linear((3.0, 0.0), bias=8.0)

    def forward(self, x):
        return self.inner(self.norm(x))


def segmenter(network, *, window=(32, 32, 32), reach=None, name="known"):
    spec = Spec(
        name,
        ("FLAIR", "T1w"),
        window,
        orientation=None,
        spacing_mm=None,
        normalisation="none",
        receptive_field_vox=reach,
    )
    return Segmenter(network.eval(), spec)


def case(seed=0, *, subject="01", contrast=(2.0, -1.0), noise=0.1, lesions=LESIONS, session=None):
    """White matter (0, 0) in a ball of grey (-0.5, -1) and fluid, with lesions of a given contrast per channel."""
    rng = np.random.default_rng(seed)
    head, white, fluid = ball((16, 16, 16), 15), ball((16, 16, 16), 13), ball((16, 16, 24), 2)
    truth = np.zeros(SHAPE, dtype=bool)
    for centre, radius in lesions:
        truth |= ball(centre, radius)
    image = np.zeros((2, *SHAPE))
    for channel, (grey, dark) in enumerate(((0.3, -1.0), (-1.0, -2.0))):
        image[channel][head] = grey
        image[channel][white] = 0.0
        image[channel][fluid] = dark
        image[channel][truth] = contrast[channel]
    image += noise * rng.standard_normal(image.shape) * head
    tissue = {"white_matter": white & ~fluid, "grey_matter": head & ~white, "csf": fluid}
    volume = Volume(image.astype(np.float32), np.diag([1.0, 1.0, 1.0, 1.0]), ("FLAIR", "T1w"))
    return Case(volume, head, truth, ScanName(subject, session), tissue)


def explained(model, scan_case, *, method=None, **options):
    """The scan as the experiments take it, explained by a gradient unless told otherwise."""
    return explain_case(model, scan_case, Settings(method=method or Gradient(), **options))


def scan_of(network, *, method=None, window=(32, 32, 32), reach=None, settings=None, **options):
    """A known network asked about the small scan."""
    model = segmenter(network, window=window, reach=reach)
    return Scan(model, explained(model, case(**options), method=method, **(settings or {})))


def found_scan_of(network, *, window=(32, 32, 32), reach=None, **options):
    """A known network and the lesions it finds in the small scan, none explained."""
    model, _, found = find_case(segmenter(network, window=window, reach=reach), case(**options), Settings())
    return Scan(model, found)


def cohort(network, rows_fn, *, patients=7, seed=0, method=None, settings=None, varied=None, **options):
    """Rows of several patients, joined; `varied(n)` gives the options of patient n's scan."""
    scans = [
        scan_of(
            network, method=method, settings=settings, seed=seed + n, subject=f"{n:02d}",
            **(varied(n) if varied else {}),
        )
        for n in range(patients)
    ]  # fmt: skip
    return pd.concat([rows_fn(scan, **options) for scan in scans], ignore_index=True)
