"""Several processes: who trains on what, what is summed over them, how a module is spread.

Launched by ``torchrun`` or ``accelerate launch``, which set RANK and WORLD_SIZE. Losses are sums over a rank's own
samples divided by counts over all ranks, so that their sum over the ranks is what one process would get. accelerate's
Accelerator trains a model's own weights, and shards by class; here an optimizer has fp32 masters, and what is sharded is where
every process comes equally often.
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
from accelerate import PartialState
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

KINDS = ("ddp", "fsdp", "hsdp")
IN_UNITS = frozenset(("llm", "mmdit"))
"""Parts whose layers are sharded one by one. They must run equally often on every process, or one waits for ever: the
rest runs only where there are pictures, so it is gathered once a step, at the root."""


_alone = False


def rank() -> int:
    """From the environment, so that a data worker knows it too."""
    return 0 if _alone else int(os.environ.get("RANK", 0))


def size() -> int:
    return 1 if _alone else int(os.environ.get("WORLD_SIZE", 1))


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """What one process does while the others wait (a validation loss) counts over itself only."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


def start() -> torch.device | None:
    """Join the other processes, if there are any; this process's device where it is not the usual one."""
    if size() == 1:
        return None
    atexit.register(_leave)
    return PartialState(cpu=not torch.cuda.is_available()).device


def _leave() -> None:
    """The group's threads end before the interpreter does: one that comes back to it afterwards aborts the process. After a
    crash nobody waits for what the others will not send any more."""
    if dist.is_initialized() and not hasattr(sys, "last_value"):
        dist.destroy_process_group()


def total(value: float) -> float:
    """The sum of a number over all processes."""
    return _reduced(value, dist.ReduceOp.SUM)


def sums(*values: int) -> tuple[int, ...]:
    """`total` of several whole numbers."""
    return tuple(int(total(value)) for value in values)


def most(value: float) -> float:
    return _reduced(value, dist.ReduceOp.MAX)


def _reduced(value: float, operation: Any) -> float:
    if size() == 1:
        return value
    cell = torch.tensor(float(value), dtype=torch.float64, device="cuda" if dist.get_backend() == "nccl" else "cpu")
    dist.all_reduce(cell, operation)
    return cell.item()


def agreed(dtype: torch.dtype) -> torch.dtype:
    """The same precision on all processes: float32 where one of them chose it."""
    return torch.float32 if most(dtype == torch.float32) else dtype


def wait() -> None:
    if size() > 1:
        dist.barrier()


def share(costs: Sequence[float]) -> list[int]:
    """This process's samples of a batch: the dearest first to whoever has least, so that all have about the same.

    Raises ValueError for fewer samples than processes.
    """
    if len(costs) < size():
        raise ValueError(f"a batch of {len(costs)} for {size()} processes; batch_size must be at least {size()}")
    loads, shares = [0.0] * size(), [[] for _ in range(size())]
    for index in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        least = min(range(size()), key=lambda r: (loads[r], len(shares[r])))
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
        if size() > 1:
            # DDP and FSDP average gradients over the ranks, ours are to be summed; and every parameter takes part on
            # every rank, with weight zero where a rank has no picture: a missing gradient would hang the others
            zero = sum(p.flatten()[0] * 0 for p in self.module.parameters() if p.requires_grad and not is_spread(p))
            values["loss"] = (values["loss"] + zero) * size()
        return values


def spread(objective: Objective, kind: str) -> nn.Module:
    """Spread over the processes: "ddp" copies, "fsdp" shards, "hsdp" copies shards (2 groups); alone nothing.

    FSDP2 through `fully_shard`: each layer or block of `IN_UNITS` is a unit, the rest the root. Raises ValueError for
    another kind or a number of processes that HSDP cannot halve.
    """
    if kind not in KINDS:
        raise ValueError(f"parallel is {kind!r}; it can be {', '.join(KINDS)}")
    if size() == 1:
        return objective
    if kind == "ddp":
        return nn.parallel.DistributedDataParallel(objective)
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    if kind == "hsdp" and (size() % 2 or size() < 4):
        raise ValueError(f"hsdp with {size()} processes; it needs an even number from 4")
    shape, names = ((size(),), ("shard",)) if kind == "fsdp" else ((2, size() // 2), ("copy", "shard"))
    mesh = init_device_mesh("cuda" if dist.get_backend() == "nccl" else "cpu", shape, mesh_dim_names=names)
    options = {"mesh": mesh, "mp_policy": MixedPrecisionPolicy(reduce_dtype=torch.float32)}
    for name, module in objective.module.named_modules():
        *above, last = name.split(".")
        if isinstance(module, nn.ModuleList) and last in ("layers", "blocks") and not IN_UNITS.isdisjoint(above):
            outside = [unit.get_submodule(n) for unit in module for n in getattr(unit, "called_outside", ())]
            if outside:
                fully_shard(outside, **options)
            for unit in module:
                fully_shard(unit, **options)
    fully_shard(objective, **options)
    assert all(is_spread(p) for p in objective.parameters()), "a parameter was left whole"
    return objective


def is_spread(tensor: Tensor) -> bool:
    return isinstance(tensor, DTensor)


def own(tensor: Tensor) -> Tensor:
    """This process's shard of a tensor (sharing its memory); any other as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """The whole of a sharded tensor on every process; any other as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def gather(module: nn.Module) -> None:
    """Make a sharded module's parameters plain and whole again, on the CPU of every process, for saving; tied ones stay tied.

    Its forward is not to be called any more. `get_model_state_dict` would give the CPU's copy to the first process alone.
    """
    gathered: dict[nn.Parameter, nn.Parameter] = {}
    for owner in module.modules():
        for name, shard in owner._parameters.items():
            if shard is not None and is_spread(shard):
                if shard not in gathered:
                    gathered[shard] = nn.Parameter(shard.full_tensor().cpu(), requires_grad=shard.requires_grad)
                owner._parameters[name] = gathered[shard]
