import numpy as np
import pytest
import torch
from known import Linear, cohort, scan_of
from torch import nn

from lesionwise.attribution import Gradient, SmoothGrad
from lesionwise.experiments.sanity import randomised, sanity_finding, sanity_rows, ssim


class Deep(nn.Module):
    """Three convolutions with ReLUs: small, but with weights worth drawing anew."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.layers = nn.Sequential(
                nn.Conv3d(2, 6, 3, padding=1),
                nn.ReLU(),
                nn.Conv3d(6, 6, 3, padding=1),
                nn.ReLU(),
                nn.Conv3d(6, 1, 3, padding=1),
            )
        self.read = Linear((3.0, 0.0), bias=3.0)

    def forward(self, x):
        z = self.read(x)
        return torch.cat([z[:, :1], z[:, 1:] + 2.0 * self.layers(x)], dim=1)


class Edges(nn.Module):
    """Says lesion by weights, but its gradient does not depend on them: a map of it is not about the network."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Linear(1, 1)

    def forward(self, x):
        z = 3.0 * x[:, :1] - 3.0 + 0.0 * self.scale.weight.sum()
        return torch.cat([torch.zeros_like(z), z], dim=1)


def test_cascading_randomisation_starts_at_the_output_and_leaves_the_network_alone():
    network = Deep()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    seen = list(randomised(network.layers, stages=3, mode="cascading", rng=np.random.default_rng(0)))
    assert [stage for stage, _, _ in seen] == [1, 2, 3]
    assert [fraction for _, fraction, _ in seen] == pytest.approx([1 / 3, 2 / 3, 1])
    changed = [[not torch.equal(part[n].weight, network.layers[n].weight) for n in (0, 2, 4)] for _, _, part in seen]
    assert changed == [[False, False, True], [False, True, True], [True, True, True]]
    alone = list(randomised(network.layers, stages=3, mode="independent", rng=np.random.default_rng(0)))
    assert [not torch.equal(part[4].weight, network.layers[4].weight) for _, _, part in alone] == [True, False, False]
    assert all(torch.equal(network.state_dict()[name], value) for name, value in before.items())


@pytest.mark.slow
def test_a_map_that_depends_on_the_weights_changes_and_one_that_does_not_is_caught():
    about, not_about = (
        sanity_rows(scan_of(network), stages=2, modes=("cascading",), seeds=0) for network in (Deep(), Edges())
    )
    flair = about[(about["test"] == "cascading") & (about["channel"] == "FLAIR")]
    assert flair["ssim"].max() < 0.9
    stuck = not_about[(not_about["test"] == "cascading") & (not_about["channel"] == "FLAIR")]
    assert stuck["ssim"].to_numpy() == pytest.approx(1)
    assert stuck["spearman"].to_numpy() == pytest.approx(1)
    assert "by 1" in sanity_finding(not_about, np.random.default_rng(0)).text


def test_beyond_a_finite_receptive_field_the_map_is_zero_and_a_wrong_claim_is_found():
    true, wrong = (
        sanity_rows(scan_of(Linear((3.0, 0.0), width=9, bias=0.5), reach=(n, n, n)), stages=1, modes=(), seeds=0)
        for n in (9, 3)
    )
    assert true.loc[true["test"] == "beyond reach", "value"].max() == 0
    assert wrong.loc[wrong["test"] == "beyond reach", "value"].max() > 0
    assert "exactly 0" in sanity_finding(true, np.random.default_rng(0)).text
    assert "must not be" in sanity_finding(wrong, np.random.default_rng(0)).text


@pytest.mark.slow
def test_seeds_and_repeated_scans():
    method = SmoothGrad(n_samples=4)

    def rows_of(scan):
        return sanity_rows(scan, stages=1, modes=(), seeds=2)

    rows = cohort(Deep(), rows_of, patients=2, method=method, varied=lambda n: {"session": str(n)})
    rows["subject"] = "01"
    rows["scan"] = rows["session"].map(lambda s: f"sub-01_ses-{s}")
    finding = sanity_finding(rows, np.random.default_rng(0))
    assert "ICC(2,1)" in finding.text
    repeat = finding.tables["sanity_repeat"]
    assert len(repeat) == 4  # two lesions, two channels
    assert (repeat["relative_difference"] < 1).all()


def test_a_shuffled_map_is_unlike_and_ssim_of_a_map_with_itself_is_one():
    rng = np.random.default_rng(0)
    a = rng.standard_normal((12, 12, 12))
    assert ssim(a, 3 * a) == pytest.approx(1)
    assert ssim(a, rng.permutation(a.ravel()).reshape(a.shape)) < 0.2
    rows = sanity_rows(scan_of(Linear((3.0, 0.0), width=5)), method=Gradient(), stages=1, modes=(), seeds=0)
    flair = rows[rows["channel"] == "FLAIR"].groupby("test")["spearman_magnitude"].mean()
    assert abs(flair["shuffled"]) < 0.1
    assert flair["other lesion"] > flair["shuffled"]
