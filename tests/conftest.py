"""Shape hints are enforced here, and only here: every module of the package is checked at run time but the busiest."""

import os

# One thread per worker, before any library starts its own: two workers of two threads wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from jaxtyping import install_import_hook
from typechecker import modules_to_check

install_import_hook(modules_to_check(), "typechecker.checked")

import pytest
import torch
from torch import nn

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def small_phantom():
    """A synthetic patient of about 64^3 voxels."""
    from lesionwise.phantom import synthesise

    return synthesise(4, size="small")


@pytest.fixture(scope="session")
def small_case(small_phantom):
    """That patient as a case with its reference."""
    from lesionwise.geometry.volume import Case, ScanName

    return Case(small_phantom.image, small_phantom.head, small_phantom.reference, ScanName("small"))


@pytest.fixture(scope="session")
def bright_model():
    """A network whose workings are known: it calls bright FLAIR a lesion, a little less so where T1w is bright."""
    from lesionwise.segmenter import Segmenter, Spec

    network = nn.Sequential(nn.Conv3d(2, 2, 3, padding=1), nn.Tanh(), nn.Conv3d(2, 2, 1))
    with torch.no_grad():
        network[0].weight.zero_()
        network[0].weight[0, 0] = 0.6 / 27
        network[0].weight[0, 1] = -0.1 / 27
        network[0].weight[1, 1] = 0.2 / 27
        network[0].bias[:] = torch.tensor([-0.9, 0.0])
        network[2].weight[:] = torch.tensor([[-6.0, 0.5], [6.0, -0.5]])[..., None, None, None]
        network[2].bias.zero_()
    spec = Spec("bright", ("FLAIR", "T1w"), (32, 32, 32), overlap=0.25, receptive_field_vox=(3, 3, 3))
    return Segmenter(network.eval(), spec)
