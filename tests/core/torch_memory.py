"""What torch holds, which Python's own tracing of memory cannot see."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def peak_bytes(run: Callable[[], Any]) -> int:
    """The most bytes of tensors alive at once after any operation of `run`, beside those from before.

    A storage is counted from the operation that made it until it is freed; what a view or an in-place
    operation gives back was counted already, or lies before `run`.
    """
    import torch
    from torch.multiprocessing.reductions import StorageWeakRef
    from torch.utils import _pytree
    from torch.utils._python_dispatch import TorchDispatchMode

    def storages(tree: Any) -> dict[int, Any]:
        tensors = [leaf for leaf in _pytree.tree_leaves(tree) if isinstance(leaf, torch.Tensor)]
        return {each.untyped_storage()._cdata: each.untyped_storage() for each in tensors}

    class Living(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.alive: dict[int, tuple[StorageWeakRef, int]] = {}
            self.peak = 0

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = function(*args, **(kwargs or {}))
            given = storages((args, kwargs))
            for key, storage in storages(out).items():
                if key not in given:
                    self.alive[key] = StorageWeakRef(storage), storage.nbytes()
            self.alive = {key: (ref, size) for key, (ref, size) in self.alive.items() if not ref.expired()}
            self.peak = max(self.peak, sum(size for _, size in self.alive.values()))
            return out

    with Living() as living:
        run()
    return living.peak
