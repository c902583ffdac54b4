"""Several processes: which examples each trains on, sums over all of them, and sharding of a module.

Launched by ``torchrun`` or ``accelerate launch``, which set RANK and WORLD_SIZE. Losses are sums over a rank's own
samples divided by counts over all ranks, so that their sum over the ranks is what one process would get. accelerate's
Accelerator trains a model's own weights, and shards by class; here an optimizer has fp32 masters, and what is sharded is where
every process comes equally often.
"""

from __future__ import annotations

import atexit
import contextlib
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from accelerate import PartialState
from torch import Tensor, nn
from torch.distributed._composable.contract import REGISTRY_KEY, STATE_KEY
from torch.distributed._composable_state import _module_state_mapping
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.utils.hooks import RemovableHandle

STRATEGIES = ("ddp", "fsdp", "hsdp")
SHARDED_BY_LAYER = frozenset(("llm", "mmdit"))
"""Parts whose layers are sharded one by one. They have to run equally often on every process, or one waits for ever. All other
parts run only where there are pictures, so they are gathered once a step, with the root."""


_single_process = False


def rank() -> int:
    """This process's number, from the environment, so that data workers know it too."""
    return 0 if _single_process else int(os.environ.get("RANK", 0))


def world_size() -> int:
    return 1 if _single_process else int(os.environ.get("WORLD_SIZE", 1))


@contextlib.contextmanager
def single_process() -> Iterator[None]:
    """Within it sums are over this process only: for what one process computes while the others wait (a validation loss)."""
    global _single_process
    before, _single_process = _single_process, True
    try:
        yield
    finally:
        _single_process = before


LAST_WORK_S = 0.2
"""Threads of gloo let go of a call's tensors a moment after the call has returned, and need the interpreter for it: in one that
ends at this moment they abort the process (pytorch's pull request 179291 tells of it)."""


def init_process_group() -> torch.device | None:
    """Join the other processes, if there are any, and return this process's device; None for a single process."""
    if world_size() == 1:
        return None
    atexit.register(_destroy_process_group)
    return PartialState(cpu=not torch.cuda.is_available()).device


def _destroy_process_group() -> None:
    """End the group's threads before the interpreter ends, which they would abort; not after a crash, when it would wait for
    processes that send nothing any more."""
    if dist.is_initialized() and not hasattr(sys, "last_value"):
        dist.destroy_process_group()
        time.sleep(LAST_WORK_S)


def sum_over_processes(value: float) -> float:
    """The sum of a number over all processes."""
    return _all_reduce(value, dist.ReduceOp.SUM)


def sum_counts(*values: int) -> tuple[int, ...]:
    """`sum_over_processes` of several integers."""
    return tuple(int(sum_over_processes(value)) for value in values)


def max_over_processes(value: float) -> float:
    return _all_reduce(value, dist.ReduceOp.MAX)


def _collective_device() -> str:
    """Where the tensors are that processes exchange."""
    return "cuda" if dist.get_backend() == "nccl" else "cpu"


def _all_reduce(value: float, operation: Any) -> float:
    if world_size() == 1:
        return value
    cell = torch.tensor(float(value), dtype=torch.float64, device=_collective_device())
    dist.all_reduce(cell, operation)
    return cell.item()


def sum_tensor(value: Tensor) -> Tensor:
    """The sum of a tensor over all processes, on its device."""
    if world_size() > 1:
        value = value.detach().to(_collective_device(), copy=True)
        dist.all_reduce(value)
    return value


def shared(compute: Callable[[Tensor], Tensor], items: Tensor) -> Tensor:
    """``compute(items)``, by the first dimension, where every process has all ``items``: each computes a share of them and gets
    the others' results, of the same shape."""
    world = world_size()
    if world == 1 or len(items) < world:
        return compute(items)
    own = compute(items[rank() :: world])
    share = math.ceil(len(items) / world)
    padded = F.pad(own, (0, 0) * (own.ndim - 1) + (0, share - len(own))).contiguous()
    gathered = padded.new_empty(world * share, *padded.shape[1:])
    dist.all_gather_into_tensor(gathered, padded)
    return gathered.unflatten(0, (world, share)).transpose(0, 1).flatten(0, 1)[: len(items)]


def common_dtype(dtype: torch.dtype) -> torch.dtype:
    """One precision for all processes: float32 if any of them chose it."""
    return torch.float32 if max_over_processes(dtype == torch.float32) else dtype


def barrier() -> None:
    if world_size() > 1:
        dist.barrier()


def balanced_indices(costs: Sequence[float]) -> list[int]:
    """Indices of this process's samples of a batch, so that the sums of ``costs`` are about equal over the processes (greedy).

    Raises ValueError for fewer samples than processes.
    """
    if len(costs) < world_size():
        raise ValueError(
            f"a batch of {len(costs)} for {world_size()} processes; batch_size must be at least {world_size()}"
        )
    loads = [0.0] * world_size()
    shares: list[list[int]] = [[] for _ in loads]
    for index in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        least = min(range(world_size()), key=lambda r: (loads[r], len(shares[r])))
        loads[least] += costs[index]
        shares[least].append(index)
    return sorted(shares[rank()])


def total_losses(values: dict[str, Tensor]) -> dict[str, float]:
    """The losses of `LossForward` over all processes."""
    totals = {key: sum_over_processes(float(value)) for key, value in values.items()}
    return totals | {"loss": totals["loss"] / world_size()}  # which was scaled for the gradients' average


class LossForward(nn.Module):
    """Losses of a module as its forward, because DDP and FSDP hook into the forward of a module."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.hooks: list[RemovableHandle] = []
        """What `shard` hooked into parts of the module, beside FSDP's own hooks"""

    def forward(self, losses: Callable[..., dict[str, Tensor]], *given: Any) -> dict[str, Tensor]:
        """``losses(*given)``, with ``"loss"`` scaled so that the average of its gradients over the processes is their sum."""
        values = losses(*given)
        if world_size() > 1:
            # what takes part on one process has to on all, or the others would wait for its gradient; what takes part on none
            # has no gradient, as with one process, so that the optimizer leaves it as it is
            trained = [p for p in self.module.parameters() if p.requires_grad and not is_sharded(p)]
            zero = sum(p.flatten()[0] * 0 for p in used_on_some_process(values["loss"], trained))
            # DDP looks for parameters in all that is returned, and waits for their gradients
            values = {key: value.detach() for key, value in values.items()} | {
                "loss": (values["loss"] + zero) * world_size()
            }
        return values


def used_on_some_process(loss: Tensor, parameters: Sequence[nn.Parameter]) -> list[nn.Parameter]:
    """The ``parameters`` that ``loss`` depends on, on any process; all of them if it depends on none."""
    seen, nodes = set(), [loss.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is not None and node not in seen:
            seen.add(node)
            nodes += [following for following, _ in node.next_functions]
    used = {getattr(node, "variable", None) for node in seen}
    marks = torch.tensor([float(p in used) for p in parameters], device=_collective_device())
    if len(marks):
        dist.all_reduce(marks, dist.ReduceOp.MAX)
    return [p for p, mark in zip(parameters, marks.tolist(), strict=True) if mark] or list(parameters)


def shard(module: nn.Module, kind: str) -> nn.Module:
    """The `LossForward` of a module that is distributed over the processes, in place: "ddp" copies, "fsdp" shards, "hsdp" has two
    copies, each sharded; one process: nothing.

    FSDP2 through `fully_shard`: each layer or block of `SHARDED_BY_LAYER` is a unit, the rest the root. Raises ValueError for
    another kind or a number of processes that HSDP cannot halve.
    """
    if kind not in STRATEGIES:
        raise ValueError(f"parallel is {kind!r}; it can be {', '.join(STRATEGIES)}")
    whole = LossForward(module)
    if world_size() == 1:
        return whole
    if kind == "ddp":
        return nn.parallel.DistributedDataParallel(whole, find_unused_parameters=True)
    if kind == "hsdp" and (world_size() % 2 or world_size() < 4):
        raise ValueError(f"hsdp with {world_size()} processes; it needs an even number from 4")
    shape, names = ((world_size(),), ("shard",)) if kind == "fsdp" else ((2, world_size() // 2), ("copy", "shard"))
    mesh = init_device_mesh(_collective_device(), shape, mesh_dim_names=names)
    options: dict[str, Any] = {"mesh": mesh, "mp_policy": MixedPrecisionPolicy(reduce_dtype=torch.float32)}
    for name, units in module.named_modules():
        *above, last = name.split(".")
        if isinstance(units, nn.ModuleList) and last in ("layers", "blocks") and not SHARDED_BY_LAYER.isdisjoint(above):
            outside = [unit.get_submodule(n) for unit in units for n in getattr(unit, "called_outside", ())]
            if outside:
                fully_shard(outside, **options)
            for unit in units:
                fully_shard(unit, **options)
            # a backbone behind which alone something learns needs no backward; before the MM-DiT something always learns
            if "mmdit" in above or any(p.requires_grad for p in module.get_submodule(above[0]).parameters()):
                whole.hooks += [
                    unit.register_forward_pre_hook(_require_input_grad, prepend=True) for unit in (*outside, *units)
                ]
    fully_shard(whole, **options)
    assert all(is_sharded(p) for p in whole.parameters()), "a parameter was not sharded"
    return whole


def _require_input_grad(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Let a unit's input have a gradient, as transformers' `enable_input_require_grads` does.

    FSDP gathers a unit in the backward pass, and reduces its gradients, where its input has one. With a frozen part before it
    that would be so on the processes with a picture alone, and they would wait for the others for ever.
    """
    first = inputs[0]
    if torch.is_grad_enabled() and not first.requires_grad:
        first = first.detach().requires_grad_()
    return (first, *inputs[1:])


def is_sharded(tensor: Tensor) -> bool:
    return isinstance(tensor, DTensor)


def local_shard(tensor: Tensor) -> Tensor:
    """This process's shard of a tensor (sharing its memory); any other as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def full_tensor(tensor: Tensor) -> Tensor:
    """The full tensor of a sharded one, on every process; any other as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def reshard(module: nn.Module) -> None:
    """Drop what FSDP keeps gathered after a forward without a backward: it would be used again, whatever the shards are then."""
    for unit in module.modules():
        if isinstance(unit, FSDPModule):
            unit.reshard()


@torch.no_grad()
def unshard(module: nn.Module) -> None:
    """Undo `shard`: parameters are plain and whole, on the CPU of every process, and tied ones tied; forwards work as before.

    `get_model_state_dict` would give the CPU's copy to the first process alone.
    """
    reshard(module)
    gathered: dict[nn.Parameter, nn.Parameter] = {}
    for owner in module.modules():
        if isinstance(owner, LossForward):
            for hook in owner.hooks:
                hook.remove()
        if isinstance(owner, FSDPModule):
            _remove_fsdp(owner)
        for key in (STATE_KEY, REGISTRY_KEY, "_is_fsdp_managed_module", "_fsdp_use_orig_params"):
            owner.__dict__.pop(key, None)
        for name, shard in owner._parameters.items():
            if shard is not None and is_sharded(shard):
                if shard not in gathered:
                    gathered[shard] = nn.Parameter(full_tensor(shard).cpu(), requires_grad=shard.requires_grad)
                owner._parameters[name] = gathered[shard]


def _remove_fsdp(unit: Any) -> None:
    """Take away what `fully_shard` gave a module: hooks, class, place in torch's list. torch has no function for it."""
    state: Any = fully_shard.state(unit)  # type: ignore[attr-defined]  # put there by a decorator
    state._pre_forward_hook_handle.remove()
    state._post_forward_hook_handle.remove()
    _module_state_mapping.pop(unit, None)
    unit.__class__ = type(unit).__mro__[getattr(unit, "_orig_cls_mro_index", 2)]  # older ones of torch do not say
