"""Several processes: who trains on what, what is summed over them, how a module is spread.

Launched by ``torchrun`` or ``accelerate launch``, which set RANK and WORLD_SIZE. Losses are sums over a rank's own
samples divided by counts over all ranks, so that their sum over the ranks is what one process would get.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

STRATEGIES = ("ddp", "fsdp", "hsdp")
SHARDED_BY_LAYER = frozenset(("llm", "mmdit"))
"""Parts whose layers are sharded one by one. They must run equally often on every process, or one waits for ever: the
rest runs only where there are pictures, so it is gathered once a step, at the root."""


_single_process = False


def rank() -> int:
    """From the environment, so that a data worker knows it too."""
    return 0 if _single_process else int(os.environ.get("RANK", 0))


def world_size() -> int:
    return 1 if _single_process else int(os.environ.get("WORLD_SIZE", 1))


@contextlib.contextmanager
def single_process() -> Iterator[None]:
    """What one process does while the others wait (a validation loss) counts over itself only."""
    global _single_process
    before, _single_process = _single_process, True
    try:
        yield
    finally:
        _single_process = before


def init_process_group() -> torch.device | None:
    """Join the other processes, if there are any; this process's device where it is not the usual one."""
    if world_size() == 1:
        return None
    cuda = torch.cuda.is_available()
    if not dist.is_initialized():
        dist.init_process_group("nccl" if cuda else "gloo")
        atexit.register(_destroy_process_group)
    if not cuda:
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    torch.cuda.set_device(device)
    return device


def _destroy_process_group() -> None:
    """The group's threads end before the interpreter does: one that comes back to it afterwards aborts the process. After a
    crash nobody waits for what the others will not send any more."""
    if dist.is_initialized() and not hasattr(sys, "last_value"):
        dist.destroy_process_group()


def sum_over_processes(value: float) -> float:
    """The sum of a number over all processes."""
    return _all_reduce(value, dist.ReduceOp.SUM)


def sum_counts(*values: int) -> tuple[int, ...]:
    """`sum_over_processes` of several whole numbers."""
    return tuple(int(sum_over_processes(value)) for value in values)


def max_over_processes(value: float) -> float:
    return _all_reduce(value, dist.ReduceOp.MAX)


def _all_reduce(value: float, operation: Any) -> float:
    if world_size() == 1:
        return value
    cell = torch.tensor(float(value), dtype=torch.float64, device="cuda" if dist.get_backend() == "nccl" else "cpu")
    dist.all_reduce(cell, operation)
    return cell.item()


def common_dtype(dtype: torch.dtype) -> torch.dtype:
    """The same precision on all processes: float32 where one of them chose it."""
    return torch.float32 if max_over_processes(dtype == torch.float32) else dtype


def barrier() -> None:
    if world_size() > 1:
        dist.barrier()


def balanced_indices(costs: Sequence[float]) -> list[int]:
    """This process's samples of a batch: the dearest first to whoever has least, so that all have about the same.

    Raises ValueError for fewer samples than processes.
    """
    if len(costs) < world_size():
        raise ValueError(
            f"a batch of {len(costs)} for {world_size()} processes; batch_size must be at least {world_size()}"
        )
    loads, shares = [0.0] * world_size(), [[] for _ in range(world_size())]
    for index in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        least = min(range(world_size()), key=lambda r: (loads[r], len(shares[r])))
        loads[least] += costs[index]
        shares[least].append(index)
    return sorted(shares[rank()])


class Objective(nn.Module):
    """A module and the losses of its batches as one forward: what DDP and FSDP hook into."""

    def __init__(self, module: nn.Module, losses: Callable[[Any, int], dict[str, Tensor]]) -> None:
        super().__init__()
        self.module, self.losses = module, losses

    def forward(self, batch: Any, step: int) -> dict[str, Tensor]:
        values = self.losses(batch, step)
        if world_size() > 1:
            # DDP and FSDP average gradients over the ranks, ours are to be summed; and every parameter takes part on
            # every rank, with weight zero where a rank has no picture: a missing gradient would hang the others
            zero = sum(p.flatten()[0] * 0 for p in self.module.parameters() if p.requires_grad and not is_sharded(p))
            values["loss"] = (values["loss"] + zero) * world_size()
        return values


def shard(objective: Objective, kind: str) -> nn.Module:
    """Spread over the processes: "ddp" copies, "fsdp" shards, "hsdp" copies shards (2 groups); alone nothing.

    FSDP2 through `fully_shard`: each layer or block of `SHARDED_BY_LAYER` is a unit, the rest the root. Raises ValueError for
    another kind or a number of processes that HSDP cannot halve.
    """
    if kind not in STRATEGIES:
        raise ValueError(f"parallel is {kind!r}; it can be {', '.join(STRATEGIES)}")
    if world_size() == 1:
        return objective
    if kind == "ddp":
        return nn.parallel.DistributedDataParallel(objective)
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    if kind == "hsdp" and (world_size() % 2 or world_size() < 4):
        raise ValueError(f"hsdp with {world_size()} processes; it needs an even number from 4")
    shape, names = ((world_size(),), ("shard",)) if kind == "fsdp" else ((2, world_size() // 2), ("copy", "shard"))
    mesh = init_device_mesh("cuda" if dist.get_backend() == "nccl" else "cpu", shape, mesh_dim_names=names)
    options = {"mesh": mesh, "mp_policy": MixedPrecisionPolicy(reduce_dtype=torch.float32)}
    for name, module in objective.module.named_modules():
        *above, last = name.split(".")
        if (
            isinstance(module, nn.ModuleList)
            and last in ("layers", "blocks")
            and not SHARDED_BY_LAYER.isdisjoint(above)
        ):
            outside = [unit.get_submodule(n) for unit in module for n in getattr(unit, "called_outside", ())]
            if outside:
                fully_shard(outside, **options)
            for unit in module:
                fully_shard(unit, **options)
    fully_shard(objective, **options)
    assert all(is_sharded(p) for p in objective.parameters()), "a parameter was left whole"
    return objective


def is_sharded(tensor: Tensor) -> bool:
    return isinstance(tensor, DTensor)


def local_shard(tensor: Tensor) -> Tensor:
    """This process's shard of a tensor (sharing its memory); any other as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def full_tensor(tensor: Tensor) -> Tensor:
    """The whole of a sharded tensor on every process; any other as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def unshard(module: nn.Module) -> None:
    """Make a sharded module's parameters plain and whole again, for saving. Its forward is not to be called any more."""
    for owner in module.modules():
        for name, parameter in list(owner._parameters.items()):
            if parameter is not None and is_sharded(parameter):
                full = parameter.full_tensor().cpu()
                owner._parameters[name] = nn.Parameter(full, requires_grad=parameter.requires_grad)
