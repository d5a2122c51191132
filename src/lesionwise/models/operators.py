"""Which operators a TorchScript network may use without trust: arithmetic on tensors, and nothing that reaches outside.

An operator that is not listed here - one that reads or writes files, one of an extension, one of next year's PyTorch - is
refused by name until the user trusts the file.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from lesionwise.errors import ModelFileError

_TENSOR = """
_adaptive_avg_pool2d _adaptive_avg_pool3d _convolution _log_softmax _softmax _to_copy _upsample_bicubic2d_aa
_upsample_bilinear2d_aa _upsample_lanczos2d_aa _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d
abs abs_ acos adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool2d adaptive_max_pool3d add add_
addcdiv addcmul addmm alias alpha_dropout amax amin any all arange argmax argmin asin atan atan2 avg_pool1d avg_pool2d
avg_pool3d baddbmm batch_norm bmm broadcast_tensors cat ceil celu channel_shuffle chunk clamp clamp_ clamp_max clamp_min
clone concat constant_pad_nd contiguous conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution
copy_ cos cosh cumsum detach detach_ diagonal div div_ dropout dropout_ einsum elu elu_ embedding empty empty_like eq equal
erf exp expand expand_as expm1 feature_alpha_dropout feature_dropout feature_dropout_ fill_ flatten flip floor floor_
floor_divide fmod full full_like gather ge gelu gelu_ glu grid_sampler group_norm gt hardshrink hardsigmoid hardsigmoid_
hardswish hardswish_ hardtanh hardtanh_ index index_put index_put_ index_select instance_norm isfinite isinf isnan
layer_norm le leaky_relu leaky_relu_ lerp linear linspace log log10 log1p log2 log_softmax logical_and logical_not
logical_or logical_xor logsumexp lt masked_fill masked_fill_ masked_select matmul max max_pool1d max_pool2d max_pool3d
max_pool2d_with_indices max_pool3d_with_indices max_unpool3d maximum mean meshgrid min minimum mish mish_ mm movedim mul
mul_ mv narrow native_batch_norm native_group_norm native_layer_norm ne neg nonzero norm one_hot ones ones_like pad permute
pixel_shuffle pixel_unshuffle pow pow_ prelu prod reciprocal reflection_pad1d reflection_pad2d reflection_pad3d relu relu6
relu6_ relu_ remainder repeat repeat_interleave replication_pad1d replication_pad2d replication_pad3d reshape reshape_as
rms_norm roll rot90 round rrelu rsqrt rsub scaled_dot_product_attention scatter scatter_ scatter_add select selu selu_
sigmoid sigmoid_ sign silu silu_ sin sinh slice softmax softplus softshrink sort split split_with_sizes sqrt square squeeze
squeeze_ stack std std_mean sub sub_ sum swapaxes t tan tanh tanh_ tensor_split threshold threshold_ to topk transpose
transpose_ tril triu trunc type_as unbind unflatten unfold unsqueeze unsqueeze_ upsample_bicubic2d upsample_bilinear2d
upsample_linear1d upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_trilinear3d var var_mean view view_as
where zero_ zeros zeros_like
"""
_LANGUAGE = """
Bool Float Int IntImplicit FloatImplicit ScalarImplicit Size __and__ __contains__ __derive_index __getitem__ __is__ __isnot__
__lshift__ __not__ __or__ __range_length __rshift__ __xor__ _set_item _unwrap_optional append clear copy count dict dim
device element_size extend find floordiv format get index insert is_complex is_contiguous is_floating_point item items
join keys len list lower mathremainder max min ndim numel ord pop remove replace reverse rstrip size sorted split
startswith str stride strip sym_numel sym_size sym_stride tensor truediv update upper values warn
"""
_CONTROL = """
BroadcastSizes Constant ConstantChunk CreateObject DictConstruct GetAttr If ImplicitTensorToNum
ListConstruct ListUnpack Loop NumToTensor RaiseException SetAttr TupleConstruct TupleIndex TupleSlice TupleUnpack
Uninitialized data device dtype grad isinstance itemsize layout max min name ndim requires_grad shape tolist type
unchecked_cast unchecked_unwrap_optional
"""

ALLOWED = frozenset(
    {f"aten::{name}" for name in (*_TENSOR.split(), *_LANGUAGE.split())}
    | {f"prim::{name}" for name in _CONTROL.split()}
)
"""Kinds of graph nodes, as TorchScript names them. Calls are looked into first: one that is left could
not be, and is refused."""


def refuse_operators(script: torch.jit.ScriptModule, path: Path) -> None:
    """Raises ModelFileError if any method of a loaded TorchScript network uses an operator that is not `ALLOWED`, or if it
    has hooks. Nothing of the network is run.
    """
    for module in script.modules():
        inner: Any = module._c  # type: ignore[attr-defined]
        if inner._get_forward_hooks() or inner._get_forward_pre_hooks():
            raise ModelFileError(_asks_for_trust(path, "hooks"))
        for name in inner._method_names():
            odd = next((kind for kind in _kinds(inner._get_method(name).inlined_graph) if kind not in ALLOWED), None)
            if odd is not None:
                raise ModelFileError(_asks_for_trust(path, f"the operator {odd}"))


def _kinds(block: Any) -> Iterator[str]:
    for node in block.nodes():
        yield node.kind()
        for inner in node.blocks():
            yield from _kinds(inner)


def _asks_for_trust(path: Path, what: str) -> str:
    return (
        f"The TorchScript network in {path} uses {what}, which is not among the arithmetic known to be harmless: pass "
        "--trust if you trust its source."
    )
