"""A GPU that is none: on a CPU, tensors sent to "cuda" are marked, and an operation that mixes them with others is refused
as a GPU would refuse it. What is computed is what the CPU computes.

Marks are of storages, so views have them too; results have their inputs'. Two modes do it: one over Python's calls, where
devices are named and asked for, one over the operations below, where tensors meet.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from types import SimpleNamespace
from unittest.mock import patch

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

GPU = torch.device("cuda", 0)
MIXED_OPERATIONS = {
    "aten.copy_.default",
    "aten._to_copy.default",
    "aten.index.Tensor",
    "aten.index_put_.default",
    "aten.index_put.default",
    "aten._index_put_impl_.default",
    "aten.set_.source_Tensor",
    "aten._has_compatible_shallow_copy_type.default",
}
"""What may take tensors of both: copies, and indices on the CPU of a tensor on the GPU"""
MOVED_BY_TORCH = ("grad_scale", "found_inf")
"""What a fused optimizer itself brings to the parameters' device, which it asks for where a mark is not seen"""
NO_CPU_SCALARS = ("aten.cat", "aten.stack", "aten.mm", "aten._fused")
"""What takes no number of the CPU's either, unlike all that goes element by element"""


class Marks:
    def __init__(self) -> None:
        self.of: dict[int, StorageWeakRef] = {}

    def on(self, tensor: torch.Tensor) -> bool:
        if tensor.layout is not torch.strided:
            return False
        ref = self.of.get(tensor.untyped_storage()._cdata)
        return ref is not None and not ref.expired()

    def put(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        self.of[storage._cdata] = StorageWeakRef(storage)  # held weakly: its address is not given away again

    def take(self, tensor: torch.Tensor) -> None:
        self.of.pop(tensor.untyped_storage()._cdata, None)


def tensors(*values) -> list[torch.Tensor]:
    return [v for v in tree_flatten(values)[0] if isinstance(v, torch.Tensor)]


class DispatchMode(TorchDispatchMode):
    """Inputs on the GPU make outputs on it; both together are an error."""

    def __init__(self, marks: Marks) -> None:
        super().__init__()
        self.marks = marks

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        given = tensors(args, {key: value for key, value in kwargs.items() if key not in MOVED_BY_TORCH})
        here = [self.marks.on(t) for t in given]
        name = str(func)
        backward = torch._C._current_graph_task_id() != -1  # its zeros are made where the options of a tensor say
        if any(here) and not all(here) and not backward:
            stray = [t for t, on in zip(given, here, strict=True) if not on]
            scalars = all(t.ndim == 0 for t in stray) and not name.startswith(NO_CPU_SCALARS)
            indices = name in MIXED_OPERATIONS and (here[0] or "copy" in name)
            if not scalars and not indices:
                raise RuntimeError(
                    f"{name}: {len(stray)} of {len(given)} tensors are on the CPU, the others on cuda:0: "
                    f"{[tuple(t.shape) for t in stray]}"
                )
        made = func(*args, **kwargs)
        on = here[0] if name.startswith("aten.copy_") else any(here)
        if on:
            for tensor in tensors(made):
                self.marks.put(tensor)
        return made


class FunctionMode(TorchFunctionMode):
    """Devices named in Python's calls are marks; the CPU's is the only one that torch is told."""

    def __init__(self, marks: Marks) -> None:
        super().__init__()
        self.marks = marks

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if func in (torch.device, torch._C._nn._parse_to):
            return func(*args, **kwargs)
        if func == torch.Tensor.device.__get__:
            return GPU if self.marks.on(args[0]) else func(*args)
        if func == torch.Tensor.is_cuda.__get__:
            return self.marks.on(args[0])
        if func is torch.Tensor.numpy and self.marks.on(args[0]):
            raise TypeError("can't convert cuda:0 device type tensor to numpy; use Tensor.cpu() first")
        if name in ("cpu", "cuda") and isinstance(args[0], torch.Tensor):
            return self.moved(args[0], name == "cuda")
        if func is torch.Tensor.to:
            return self.to(func, args, kwargs)
        named, (args, kwargs) = devices((args, kwargs))
        made = func(*args, **kwargs)
        if name == "new_tensor" and named is None:
            named = GPU if self.marks.on(args[0]) else None
        if named is not None:  # a factory told where
            for tensor in tensors(made):
                (self.marks.put if named.type == "cuda" else self.marks.take)(tensor)
        return made

    def to(self, func, args, kwargs):
        tensor, *rest = args
        other = next((v for v in (*rest, *kwargs.values()) if isinstance(v, torch.Tensor)), None)
        named, (rest, kwargs) = devices((rest, kwargs))
        where = self.marks.on(tensor) if named is None else named.type == "cuda"
        if other is not None:
            where, rest = self.marks.on(other), [other.dtype if v is other else v for v in rest]
            kwargs = {("dtype" if v is other else k): (other.dtype if v is other else v) for k, v in kwargs.items()}
        return self.moved(func(tensor, *rest, **kwargs) if rest or kwargs else tensor, where)

    def moved(self, tensor, where: bool):
        if self.marks.on(tensor) == where:
            return tensor
        copy = torch.Tensor.clone(tensor)
        (self.marks.put if where else self.marks.take)(copy)
        return copy


def devices(values):
    """The device named in a call's arguments, and the arguments with the CPU in its place."""
    found = None

    def swap(value):
        nonlocal found
        if isinstance(value, torch.device | str) and str(value).split(":")[0] in ("cuda", "cpu"):
            found = torch.device(value)
            return torch.device("cpu")
        return value

    swapped = tree_map(swap, values)
    return found, swapped


@contextmanager
def fake_gpu():
    """While it lasts, "cuda" is a device: also in threads begun meanwhile, and in what a backward pass computes again, which
    both come without the modes of who asked for them."""
    marks, hooks = Marks(), torch.autograd.graph.saved_tensors_hooks
    run, hooked = threading.Thread.run, hooks.__init__

    def within(thread):
        with FunctionMode(marks), DispatchMode(marks):
            run(thread)

    def again(self, *both):
        def with_marks(call):
            def called(value):
                with FunctionMode(marks):
                    return call(value)

            return called

        hooked(self, *map(with_marks, both))

    # its random numbers are the CPU's
    others = patch.multiple(
        torch.cuda,
        get_rng_state=lambda device="cuda": torch.get_rng_state(),
        set_rng_state=lambda state, device="cuda": torch.set_rng_state(state),
        get_device_properties=lambda device=None: SimpleNamespace(name="a GPU that is none", total_memory=80 * 2**30),
    )
    threading.Thread.run, hooks.__init__ = within, again
    try:
        with FunctionMode(marks), DispatchMode(marks), others:
            yield marks
    finally:
        threading.Thread.run, hooks.__init__ = run, hooked
