"""Whether tensors are what they were when something was computed of them, so that it need not be computed again."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch._C import _functorch  # type: ignore[attr-defined]

# Tensors, and the identity of each with how often it was written to.
Snapshot = tuple[tuple[Tensor, ...], tuple[int, ...]]


def snapshot(tensors: Iterable[Tensor]) -> Snapshot | None:
    """The tensors and how often each was written to; None where that does not say it all.

    That is so under torch.inference_mode, a functorch transform or a mode that sees each operation, and for tensors
    that need a gradient. Writes past autograd (`tensor.data`, an array that shares memory) are not counted by torch and
    not seen: write to the tensor itself under `torch.no_grad`.
    """
    if torch.is_inference_mode_enabled() or torch._C._len_torch_dispatch_stack():
        return None
    tensors, found = tuple(tensors), []
    for t in tensors:
        if type(t) is not Tensor or t.requires_grad or t.is_inference() or _functorch.is_functorch_wrapped_tensor(t):
            return None
        found += id(t), t._version
    return tensors, tuple(found)


def same(a: Snapshot, b: Snapshot) -> bool:
    """Whether two snapshots show the same tensors with the same content."""
    return a[1] == b[1]  # identities say it all, for the tensors of both are alive
