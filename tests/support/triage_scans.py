"""Scans made by hand, whose features are known beforehand."""

import numpy as np
import pandas as pd

from lesionwise.geometry.box import Box
from lesionwise.geometry.volume import Case, ScanName, Volume
from lesionwise.saliency import SaliencyMap
from lesionwise.triage.scan import TriageScan

CHANNELS = ("FLAIR", "T1w")
SHAPE = (40, 40, 40)


def ball_scan(*, weights=None, radius=4.2, sizes=(1.0, 1.0, 1.0)):
    """A ball of probability 0.8 in a bright FLAIR and dark T1w; the map, if any, is `weights` of every voxel."""
    rng = np.random.default_rng(0)
    grid = np.indices(SHAPE) * np.asarray(sizes)[:, None, None, None]
    distance = np.sqrt(sum((g - 19 * s) ** 2 for g, s in zip(grid, sizes, strict=True)))
    ball = distance <= radius
    image = rng.normal(size=(2, *SHAPE)).astype(np.float32)
    image[0][ball] += 3
    image[1][ball] -= 2
    affine = np.diag([*sizes, 1.0])
    head = np.zeros(SHAPE, dtype=bool)
    head[2:38, 2:38, 2:38] = True
    case = Case(Volume(image, affine, CHANNELS), head, None, ScanName("ball"))
    maps = {}
    if weights is not None:
        data = np.asarray(weights, dtype=np.float32)
        maps[1] = SaliencyMap(data, Box.whole(SHAPE), affine, CHANNELS, "log-odds per SD")
    row = {"lesion": 1, "outcome": "TP", "volume_mm3": float(ball.sum() * np.prod(sizes)), "n_samples": 4}
    row |= {"x_mm": 19 * sizes[0], "y_mm": 19 * sizes[1], "z_mm": 19 * sizes[2]}
    row |= {
        f"{m}_{c}": v for c in CHANNELS for m, v in (("peak", 0.2), ("trough", -0.1), ("peak_se", 0.05), ("share", 0.5))
    }
    return TriageScan(
        name=ScanName("ball"),
        channels=CHANNELS,
        affine=affine,
        probability=np.where(ball, 0.8, 0.1).astype(np.float32),
        mask=ball,
        labels=ball.astype(np.int32),
        lesions=pd.DataFrame([row]),
        maps=maps,
        facts={},
        threshold=0.5,
        case=case,
    ), ball
