"""Which way of a convolution is fastest for which layer and box: what the rules in `sparse/convolutions.py` rest on.

`python -m benchmarks.ways`: milliseconds of processor time, one thread, four items of n^3 voxels.
`python -m benchmarks.ways --whole`: one whole window of 96^3 by PyTorch's own choice of kernels and by `lesionwise/kernels.py`,
and the built-in U-Net's layers of such a window by the kernels that there are, on which the rule of `kernels.py` rests.
"""

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial

import torch
from monai.networks.nets import DynUNet, UNet
from torch import Tensor, nn

from benchmarks.scene import plain_nnunet
from lesionwise.attribution.sparse.convolutions import Convolutions, gathering_way, scattering_way
from lesionwise.kernels import QuickConvolutions, by_phases
from lesionwise.models.zoo import load_model

_aten = torch.ops.aten
LAYERS = (
    (2, 64, 1, 1), (32, 2, 3, 2), (16, 2, 3, 1), (32, 32, 3, 1), (64, 32, 3, 2), (128, 64, 3, 1), (256, 128, 3, 1),
    (128, 768, 3, 2), (320, 320, 3, 1), (512, 256, 3, 1), (64, 128, 2, 2),
)  # fmt: skip
"""Channels of the weights' first and second axis, kernel, stride."""


def main() -> None:
    """Prints a table in Markdown."""
    torch.set_num_threads(1)
    if "--whole" in sys.argv:
        whole_windows()
        return
    print("| convolution | n | plain | channels-last | matrix | rule |\n|---|---|---|---|---|---|")
    for kind in ("scatter", "gather"):
        for first, second, kernel, stride in LAYERS:
            for n in (2, 4, 8, 16):
                if first * second * kernel**3 * n**3 < 1.2e10:
                    print(row(kind, first, second, kernel, stride, n), flush=True)


def row(kind: str, first: int, second: int, kernel: int, stride: int, n: int) -> str:
    """One layer and one size of box by every way."""
    weight = torch.randn(first, second, kernel, kernel, kernel)
    size = n if kind == "scatter" else (n - 1) * stride + kernel
    x = torch.randn(4, first if kind == "scatter" else second, size, size, size)
    x = x.contiguous(memory_format=torch.channels_last_3d)
    found = []
    for way in ("plain", "channels-last", "matrix"):
        run_fn = getattr(Convolutions(frozenset([weight.data_ptr()]), way), kind)  # type: ignore[arg-type]
        found.append(f"{milliseconds([partial(run_fn, x, weight, [stride] * 3, [1] * 3, 1)], times=3)[0]:.2f}")
    rule = (scattering_way if kind == "scatter" else gathering_way)(weight, 4 * n**3)
    return f"| {kind} ({first}, {second}) {kernel}^3 by {stride} | {n} | {' | '.join(found)} | {rule} |"


def whole_windows() -> None:
    """Prints a table in Markdown: networks by PyTorch's own choice of kernels and by the quick convolutions, in turn."""
    networks: dict[str, nn.Module] = {
        "the built-in U-Net, 24-48-96-128-160": load_model("builtin").network,
        "U-Net of the published size, 32-64-128-256-512": UNet(
            3, 2, 2, (32, 64, 128, 256, 512), (2,) * 4, norm="batch"
        ),
        "DynUNet, 16-32-64-128, residual": DynUNet(
            3, 2, 2, [3] * 4, [1, 2, 2, 2], [2] * 3, filters=[16, 32, 64, 128], res_block=True
        ),
        "nnU-Net, five stages, 32-64-128-256-320": plain_nnunet((32, 64, 128, 256, 320)),
    }
    window = torch.randn(1, 2, 96, 96, 96, generator=torch.Generator().manual_seed(0))
    print("| network | usual, ms | quick, ms | largest difference, of the largest logit |\n|---|---|---|---|")
    for name, network in networks.items():
        ways = [partial(_run, network.eval(), window, quick) for quick in (False, True)]
        usual, quick = milliseconds(ways, times=7)
        one, other = (way() for way in ways)
        print(
            f"| {name} | {usual:.0f} | {quick:.0f} | {float((one - other).abs().max() / one.abs().max()):.1e} |",
            flush=True,
        )
    print(
        "\n| layer | voxels of its input | usual | oneDNN | phases | channels last, with both copies |\n|---|---|---|---|---|---|"
    )
    edge = 96
    for module in load_model("builtin").network.modules():
        if isinstance(module, (nn.Conv3d, nn.ConvTranspose3d)):
            print(layer_row(module, edge), flush=True)
            edge = edge * module.stride[0] if module.transposed else edge // module.stride[0]


def layer_row(layer: nn.Conv3d | nn.ConvTranspose3d, edge: int) -> str:
    """One layer on edge^3 voxels by every kernel that it has, milliseconds of processor time."""
    x = torch.randn(1, layer.in_channels, edge, edge, edge, generator=torch.Generator().manual_seed(0))
    weight, bias = layer.weight.detach(), None if layer.bias is None else layer.bias.detach()
    stride, padding, dilation = layer.stride, layer.padding, layer.dilation
    if layer.transposed:
        phases = partial(by_phases, x, weight, bias, stride, padding, layer.output_padding)
        ways: dict[str, Callable[[], object]] = {"phases": phases}
    else:
        ways = {"oneDNN": partial(_aten.mkldnn_convolution, x, weight, bias, padding, stride, dilation, 1)}
    ways["usual"] = lambda: layer(x)
    ways["last"] = lambda: layer(x.contiguous(memory_format=torch.channels_last_3d)).contiguous()
    with torch.no_grad():
        found = dict(zip(ways, milliseconds(list(ways.values()), times=6), strict=True))
    cells = [f"{found[way]:.0f}" if way in found else "n/a" for way in ("usual", "oneDNN", "phases", "last")]
    return f"| {layer.in_channels} to {layer.out_channels}, {type(layer).__name__} | {edge}^3 | {' | '.join(cells)} |"


def _run(network: nn.Module, window: Tensor, quick: bool) -> Tensor:
    with torch.no_grad(), QuickConvolutions() if quick else nullcontext():
        logits: Tensor = network(window)
        return logits


def milliseconds(ways: Sequence[Callable[[], object]], *, times: int) -> list[float]:
    """Processor time of each, the shortest of so many runs in turn, the first not counted."""
    found: list[list[float]] = [[] for _ in ways]
    for _ in range(times):
        for own, way_fn in zip(found, ways, strict=True):
            began = time.thread_time()
            way_fn()
            own.append(1000 * (time.thread_time() - began))
    return [min(own[1:]) for own in found]


if __name__ == "__main__":
    main()
