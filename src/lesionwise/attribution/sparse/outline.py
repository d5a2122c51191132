"""Graphs without values: how layers are connected can be learnt in the memory of a prediction.

Automatic differentiation keeps the tensors that a backward pass will read. A pass that only asks which boxes matter reads
their shapes alone, so that a single number, expanded to the shape, stands for each of them.
"""

from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import _disable_current_modes


class Outline(saved_tensors_hooks):
    """While it lasts, graphs keep stand-ins (zeros) for tensors. `nbytes` is what they would have held."""

    def __init__(self) -> None:
        super().__init__(self._pack, lambda stand_in: stand_in)
        self.nbytes = 0
        self._addresses: dict[int, int] = {}
        self._kept: list[Tensor] = []
        self._counted: dict[int, StorageWeakRef] = {}

    def address(self, x: Tensor) -> int:
        """Where the latest stand-in for `x` lies; its own place if there is none."""
        return self._addresses.get(x.data_ptr(), x.data_ptr())

    def _pack(self, x: Tensor) -> Tensor:
        with _disable_current_modes():  # what watches the network's operations does not see these
            stand_in = x.new_zeros(()).expand(x.shape)
        self._kept.append(stand_in)  # alive, so that no address is used twice
        self._addresses[x.data_ptr()] = stand_in.data_ptr()
        storage = x.untyped_storage()
        before = self._counted.get(storage._cdata)
        if before is None or before.expired():  # memory that was freed may be another tensor's now
            self._counted[storage._cdata] = StorageWeakRef(storage)
            self.nbytes += storage.nbytes()
        return stand_in
