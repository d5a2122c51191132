"""Sums over regions: those of the map itself, with errors from the draws, whatever the way back to the scan."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lesionwise.attribution.engine.regions import RegionSums
from lesionwise.attribution.engine.session import attribute, stream
from lesionwise.attribution.engine.site import locate
from lesionwise.attribution.methods.gradient import Gradient, SmoothGrad
from lesionwise.windows import WindowGrid

from ..conftest import OBLIQUE, OMEGA, place, random_scan, small_network, small_spec

RIM = np.array([[8, 7, 8], [10, 8, 6], [0, 0, 0]])


def sums_of(data, box, voxels):
    local = voxels - np.asarray(box.start)
    known = ((local >= 0) & (local < box.shape)).all(axis=1)
    return data[(slice(None), *local[known].T)].sum(axis=1)


@pytest.mark.parametrize(("affine", "spacing_mm"), [(None, None), (OBLIQUE, None), (OBLIQUE, 1.2)])
@pytest.mark.parametrize("method", [Gradient(), SmoothGrad(n_samples=3), SmoothGrad(n_samples=4, antithetic=True)])
def test_they_are_the_sums_of_the_map(affine, spacing_mm, method):
    scan = random_scan()
    placement, spec, network = place(scan, affine=affine, spacing_mm=spacing_mm), small_spec(), small_network()
    options = {"method": method, "regions": [(OMEGA, RIM)]}
    ((_, found),) = stream(network, spec, placement, [OMEGA], **options)
    for row, voxels in zip(found.region_sums, (OMEGA, RIM), strict=True):
        np.testing.assert_allclose(row, sums_of(found.data, found.box, voxels), rtol=1e-9, atol=1e-12)
    assert (found.region_sums_se is None) == isinstance(method, Gradient)


def test_the_error_is_that_of_the_draws_and_not_of_independent_voxels():
    scan = random_scan()
    placement, spec, network = place(scan), small_spec(), small_network()
    method = SmoothGrad(n_samples=6, noise=0.3, antithetic=False)
    ((_, found),) = stream(network, spec, placement, [OMEGA], method=method, regions=[(OMEGA,)])
    # With the first n draws of the same noise, n times the mean is the sum of the draws: their differences are the draws.
    totals = [np.zeros(2)]
    for n in range(1, 7):
        few = attribute(network, spec, placement, [OMEGA], method=replace(method, n_samples=n))[0]
        totals.append(n * sums_of(few.data, few.box, OMEGA))
    draws = np.diff(totals, axis=0)
    np.testing.assert_allclose(found.region_sums_se[0], draws.std(axis=0, ddof=1) / np.sqrt(6), rtol=1e-6)
    local = OMEGA - np.asarray(found.box.start)
    as_if_independent = np.sqrt(np.square(found.se[(slice(None), *local.T)]).sum(axis=1))
    assert (np.abs(found.region_sums_se[0] / as_if_independent - 1) > 0.1).any()


def test_pairs_are_one_unit_and_one_unit_has_no_error():
    placement = place(random_scan())
    grid = WindowGrid.of(small_spec(), placement.input.shape[2:])
    (site,) = locate(placement, grid, [OMEGA])
    sums = RegionSums.of(replace(site, regions=(OMEGA,)), torch.zeros(1, dtype=torch.float64))
    for value in (1.0, 3.0, 2.0, 6.0):
        sums.add(torch.full((2, *site.box.shape), value, dtype=torch.float64), site.box)
    n = len(OMEGA) * placement.scale.numpy()
    mean, se = sums.summary(antithetic=True)  # units 2 n and 4 n
    np.testing.assert_allclose(mean, [3.0 * n])
    np.testing.assert_allclose(se, [n])
    sums.draws = sums.draws[:2]
    assert np.isnan(sums.summary(antithetic=True)[1]).all()
    assert RegionSums.of(site, torch.zeros(1)) is None
