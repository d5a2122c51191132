import numpy as np
import pytest
import torch
from known import Linear, Normed, ball, scan_of


@pytest.mark.parametrize("window", [(32, 32, 32), (16, 16, 16), (40, 20, 12)])
def test_a_reading_is_the_prediction_at_the_lesion(window):
    scan = scan_of(Linear((2.0, 0.0), width=3), window=window)
    for instance in scan.instances:
        reading = scan.probe(instance).unchanged[0]
        assert reading.probability == pytest.approx(scan.explained.prediction[instance.index], abs=1e-5)
        p = reading.probability
        assert reading.target == pytest.approx(np.log(p / (1 - p)), abs=1e-3)


def test_windows_that_did_not_change_are_not_computed_again():
    network = Linear((2.0, 0.0))
    scan = scan_of(network, window=(16, 16, 16))
    probe = scan.probe(scan.instances[0])
    calls = []
    network.register_forward_hook(lambda *_: calls.append(1))
    probe.read([probe.base] * 5)
    assert len(calls) == len(probe.windows)
    changed = probe.base.clone()
    changed[:, 0, 0, 0] += 1
    calls.clear()
    probe.read([changed])
    seen = sum(all(s == 0 for s in scan.grid.boxes[w].relative_to(probe.box).start) for w in probe.windows)
    assert len(calls) == len(probe.windows)
    assert seen <= 1


def test_readings_of_several_lesions_and_inputs_equal_one_by_one():
    scan = scan_of(Linear((2.0, -1.0), width=5), window=(16, 16, 16))
    both = scan.probe(*scan.instances)
    change = both.base + torch.from_numpy(np.random.default_rng(0).standard_normal(both.base.shape)).float()
    together = both.read([both.base, change])
    for number, instance in enumerate(scan.instances):
        alone = scan.probe(instance)
        cut = change[(slice(None), *alone.box.relative_to(both.box).slices)]
        for n, x in enumerate((alone.base, cut)):
            assert alone.read([x])[0][0].probability == pytest.approx(together[n][number].probability, abs=1e-6)


def test_frozen_statistics_make_a_distant_change_harmless():
    scan = scan_of(Normed())
    probe = scan.probe(scan.instances[0])
    changed = probe.base.clone()
    changed[:, ~torch.from_numpy(ball((16, 16, 16), 14))] = 5.0
    free, frozen = probe.read([changed]), probe.read([changed], freeze_norm=True)
    assert abs(free[0][0].target_mean - probe.unchanged[0].target_mean) > 0.1
    assert frozen[0][0].target_mean == pytest.approx(probe.unchanged[0].target_mean, abs=1e-4)
    assert "forward" not in vars(scan.model.network.norm)  # the layer does again what it did


def test_the_distance_to_a_lesion_is_the_same_on_a_box():
    scan = scan_of(Linear((2.0, 0.0)))
    one = scan.instances[0]
    whole, box = scan.distance_mm(one), scan.around(one, 3.0)
    assert np.array_equal(scan.distance_mm(one, box=box), whole[box.slices])
    assert (whole[one.index] < 0).all()
    assert np.isinf(scan.distance_mm(one, reach_mm=2.0)[whole > 2.0]).all()


def test_what_was_kept_of_one_network_is_not_told_of_another():
    scan = scan_of(Linear((2.0, 0.0), width=3))
    probe = scan.probe(scan.instances[0]).keeping()
    changed = probe.base + 1
    assert probe.read([probe.base, changed])[0][0].target_mean == pytest.approx(probe.unchanged[0].target_mean)
    other = Linear((0.5, 0.0), width=3)
    asked = probe.asking(other).read([probe.base, changed])
    plain = scan.probe(scan.instances[0]).asking(other).read([probe.base, changed])
    for (one,), (two,) in zip(asked, plain, strict=True):
        np.testing.assert_array_equal(one.target, two.target)
