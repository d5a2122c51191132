"""TorchScript and torch.export archives: same logits, gradients, any batch, and nothing that runs unasked."""

import pytest
import torch
from monai.networks.nets import UNet
from torch import nn

from lesionwise.errors import ModelFileError
from lesionwise.models import zoo
from lesionwise.models.description import describe

pytestmark = pytest.mark.filterwarnings("ignore")
SPEC = '[spec]\nname = "tiny"\nchannels = ["FLAIR", "T1w"]\nwindow = [16, 16, 16]\nspacing_mm = "scan"\n'


@pytest.fixture
def network():
    torch.manual_seed(0)
    return UNet(3, 2, 2, [4, 8], [2], norm="batch").eval()


@pytest.fixture(params=["script", "script_extra", "program", "program_extra", "program_any_batch"])
def archive(request, network, tmp_path):
    path, x = tmp_path / "net.pt", torch.randn(2, 2, 16, 16, 16)
    inside = {"spec.toml": SPEC} if request.param.endswith("extra") else {}
    if request.param.startswith("script"):
        torch.jit.save(torch.jit.trace(network, x), path, _extra_files=inside)
    else:
        path = tmp_path / "net.pt2"
        anything = ({0: torch.export.Dim("batch", min=1, max=8)},) if "any" in request.param else None
        torch.export.save(torch.export.export(network, (x,), dynamic_shapes=anything), path, extra_files=inside)
    if not inside:
        path.with_suffix(".toml").write_text(SPEC)
    return path


def test_logits_and_gradients_are_the_networks_own(archive, network):
    model = zoo.load_model(archive, trust=archive.suffix == ".pt2")
    model.network.eval()
    for batch in (1, 2, 3):
        x = torch.randn(batch, 2, 16, 16, 16, requires_grad=True)
        ours, theirs = model.network(x), network(x)
        assert torch.allclose(ours, theirs, atol=1e-5)
        weights = torch.randn_like(theirs)
        (a,) = torch.autograd.grad((ours * weights).sum(), x)
        (b,) = torch.autograd.grad((theirs * weights).sum(), x)
        assert torch.allclose(a, b, atol=1e-5)


def test_description_says_whether_hooks_work(archive):
    description = describe(zoo.load_model(archive, trust=archive.suffix == ".pt2"))
    assert description.cam == (archive.suffix == ".pt2")
    assert description.spec.channels == ("FLAIR", "T1w")
    assert len(description.fingerprint) == 16


def test_a_window_that_was_not_exported_gets_one_sentence(network, tmp_path):
    program = torch.export.export(network, (torch.randn(1, 2, 16, 16, 16),))
    torch.export.save(program, tmp_path / "net.pt2")
    (tmp_path / "net.toml").write_text(SPEC.replace("16, 16, 16", "16, 16, 32"))
    with pytest.raises(ModelFileError, match="exported for"):
        zoo.load_model(tmp_path / "net.pt2", trust=True)


def test_an_archive_without_spec_gets_one_sentence(network, tmp_path):
    torch.jit.save(torch.jit.trace(network, torch.randn(1, 2, 16, 16, 16)), tmp_path / "net.pt")
    with pytest.raises(ModelFileError, match=r"net\.toml beside it"):
        zoo.load_model(tmp_path / "net.pt")


def test_script_with_code_that_runs_on_loading_asks_for_trust(tmp_path):
    class Sly(nn.Module):
        @torch.jit.export
        def __getstate__(self):
            return (self.training,)

        @torch.jit.export
        def __setstate__(self, state: tuple[bool]):
            self.training = state[0]

        def forward(self, x):
            return torch.cat([-x[:, :1], x[:, :1]], 1)

    torch.jit.save(torch.jit.script(Sly()), tmp_path / "net.pt")
    (tmp_path / "net.toml").write_text(SPEC)
    with pytest.raises(ModelFileError, match="--trust"):
        zoo.load_model(tmp_path / "net.pt")
    assert zoo.load_model(tmp_path / "net.pt", trust=True).network(torch.zeros(1, 2, 4, 4, 4)).shape[1] == 2
