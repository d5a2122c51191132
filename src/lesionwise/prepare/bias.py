"""Correction of the slow change of brightness across a head that comes from the receiving coil."""

import numpy as np

from lesionwise.prepare.itk import simpleitk, to_array, to_itk
from lesionwise.types import Affine, MaskArray, ScalarArray

EDGE_MM = 5.0
"""Voxels are averaged to about this before the field is fitted: it is smooth."""

ITERATIONS = (20, 20, 20)
"""At most, per level of the spline."""


def correct_bias(data: ScalarArray, affine: Affine, brain: MaskArray) -> tuple[ScalarArray, float]:
    """The channel divided by its bias field, and how much the field varies over the brain (95th by 5th percentile).

    N4 (Tustison et al. 2010, 10.1109/TMI.2010.2046908), fitted within the brain. Its level is set so that the median of
    the brain stays as it was. A ratio of 1 means that there was nothing to correct.
    """
    sitk = simpleitk()
    image, mask = to_itk(data, affine), to_itk(brain.astype(np.float32), affine)
    factors = [max(1, round(EDGE_MM / size)) for size in image.GetSpacing()]
    small, small_mask = sitk.BinShrink(image, factors), sitk.BinShrink(mask, factors) > 0.5
    fit = sitk.N4BiasFieldCorrectionImageFilter()
    fit.SetNumberOfThreads(1)
    fit.SetMaximumNumberOfIterations(list(ITERATIONS))
    fit.Execute(sitk.Clamp(small, sitk.sitkFloat32, 1e-3, 1e9), small_mask)
    # the field is smooth: taken on the small grid and interpolated, not evaluated in every voxel
    log_field = sitk.Resample(
        fit.GetLogBiasFieldAsImage(small), image, sitk.Transform(), sitk.sitkLinear, 0.0, sitk.sitkFloat32, True
    )
    field = np.exp(to_array(log_field))
    corrected = data / field
    before, after = np.median(data[brain]), np.median(corrected[brain])
    low, high = np.percentile(field[brain], (5, 95))
    return (corrected * (before / after if after > 0 else 1.0)).astype(np.float32), float(high / low)
