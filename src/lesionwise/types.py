"""Shapes, named once. Voxel axes are `i j k` (array order of the scan), world axes `x y z` in RAS millimetres."""

from collections.abc import Callable
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

ImageArray = Float32[np.ndarray, "channels i j k"]
MapArray = Float[np.ndarray, "channels i j k"]
ScalarArray = Float[np.ndarray, "i j k"]
MaskArray = Bool[np.ndarray, "i j k"]
LabelArray = Int[np.ndarray, "i j k"]
VoxelArray = Int[np.ndarray, "voxels 3"]
Affine = Float[np.ndarray, "4 4"]
Shape = tuple[int, int, int]
Millimetres = tuple[float, float, float]

Outcome = Literal["TP", "FP", "FN", "TN", "US"]
Reduction = Literal["mean", "max"]
TargetName = Literal["log_odds", "logit", "probability"]

ProgressFn = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and how much there is."""
PassFn = Callable[[int, int], None]
"""Told how many passes through the network are done, and of how many."""
