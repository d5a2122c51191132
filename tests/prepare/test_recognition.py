"""A brain alone and a head with its skull are told apart, whatever lies behind them."""

import numpy as np
import pytest
from heads import channel, small_head, small_patient

from lesionwise.errors import InputError
from lesionwise.geometry.volume import Volume
from lesionwise.prepare.recognition import stripped_brain, whole_head


def sphere(radius_vox: float, *, size_mm: float, noise: float = 0.0) -> Volume:
    distance = np.sqrt(((np.indices((60, 60, 60)) - 29.5) ** 2).sum(axis=0))
    data = np.where(distance < radius_vox, 100.0, 0.0) + noise * np.random.default_rng(0).random((60, 60, 60))
    return Volume(data[None].astype(np.float32), np.diag([size_mm] * 3 + [1.0]), ("FLAIR",))


def test_exact_zeros_around_a_brain_of_a_persons_size_are_a_stripped_image():
    brain = stripped_brain(sphere(20, size_mm=3.5))  # 1.4 l
    assert brain is not None
    assert brain.sum() == (sphere(20, size_mm=3.5).data[0] > 0).sum()


@pytest.mark.parametrize("head", [sphere(20, size_mm=3.5, noise=1.0), sphere(28, size_mm=3.5)])
def test_noise_around_it_or_the_size_of_a_head_are_not(head):
    assert stripped_brain(head) is None


def test_a_synthetic_patient_is_stripped_and_is_not_with_a_skull():
    patient, (head, _) = small_patient(), small_head()
    assert stripped_brain(Volume(patient.image.data[:1], patient.image.affine, ("FLAIR",))) is not None
    assert stripped_brain(channel(head, "FLAIR")) is None


def test_the_head_holds_the_brain_and_the_scalp_but_not_the_air():
    head, brain = small_head()
    for name in head.channels:
        found = whole_head(channel(head, name))
        assert (found & brain).sum() > 0.999 * brain.sum()
        assert found.sum() > 1.5 * brain.sum()
        assert not found[0].any()


def test_an_image_of_nothing_is_refused():
    with pytest.raises(InputError, match="FLAIR"):
        whole_head(Volume(np.zeros((1, 8, 8, 8), dtype=np.float32), np.eye(4), ("FLAIR",)))
