"""fp32 master copies of (possibly bf16) weights under AdamW or Muon, with clipping and an EMA of the masters."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from ..inference import precision
from .muon import Muon
from .parallel import common_dtype, full_tensor, local_shard

OPTIMIZERS = ("adamw", "muon")
SCHEDULES = ("linear", "cosine", "constant")
"""How the learning rate falls at the end (`learning_rate_factor`)"""
MAX_NORM = 1e18
"""A larger norm of a gradient counts as not finite: its square would not fit in AdamW's second moment."""
_REPEATED = re.compile(r"\b(blocks|layers)\.\d+\.")


class MasterOptimizer:
    """The model keeps low-precision weights for speed; the optimizer owns fp32 masters and writes them back.

    ``kind`` "adamw", or "muon": matrices inside repeated layers take orthogonalised momentum steps scaled to
    AdamW's size (`muon`), everything else AdamW. Matrices and kernels decay, vectors do not. ``ema_decay`` 0 keeps no average.

    ``buffers`` are those that forwards change, by their names: running statistics, a codebook that follows its vectors. They are
    kept and averaged with the weights, and are as they were before a step by which nothing is learned.
    """

    def __init__(
        self,
        named: Iterable[tuple[str, nn.Parameter]],
        learning_rate: float,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.99),
        ema_decay: float = 0.0,
        kind: str = "adamw",
        buffers: Mapping[str, Tensor] | None = None,
    ) -> None:
        if kind not in OPTIMIZERS:
            raise ValueError(f"optimizer {kind!r}; it can be {' or '.join(OPTIMIZERS)}")
        self.named = [(name, p) for name, p in named if p.requires_grad]
        if not self.named:
            raise ValueError("nothing to train: no parameter requires a gradient")
        self.learning_rate = learning_rate
        self.masters = {name: p.detach().float().clone().requires_grad_() for name, p in self.named}
        inner: list[Tensor] = []
        others: list[Tensor] = []
        for name, master in self.masters.items():
            (inner if kind == "muon" and master.ndim == 2 and _REPEATED.search(name) else others).append(master)
        self.optimizers: list[torch.optim.Optimizer] = []
        if others:
            groups = [
                {"params": [m for m in others if m.ndim >= 2], "weight_decay": weight_decay},
                {"params": [m for m in others if m.ndim < 2], "weight_decay": 0.0},
            ]
            self.optimizers.append(torch.optim.AdamW(groups, lr=learning_rate, betas=betas, eps=1e-8, fused=True))
        if inner:
            dtype = common_dtype(precision.choose_dtype(inner[0].device))
            self.optimizers.append(Muon(inner, lr=learning_rate, weight_decay=weight_decay, dtype=dtype))
        self.ema_decay = ema_decay
        self.ema = {name: master.detach().clone() for name, master in self.masters.items()} if ema_decay else {}
        self.buffers = dict(buffers or {})
        self.kept_buffers = {name: buffer.clone() for name, buffer in self.buffers.items()}
        """As they were after the last step by which something was learned"""
        averaged = {name: buffer for name, buffer in self.buffers.items() if buffer.is_floating_point()}
        self.buffer_ema = {name: buffer.clone() for name, buffer in averaged.items()} if ema_decay else {}
        self.sharded = any(isinstance(p, DTensor) for _, p in self.named)
        self._updates = torch.zeros((), device=self.named[0][1].device)

    @property
    def updates(self) -> int:
        """Steps by which something was learned. Reading it waits for the device."""
        return int(self._updates)

    @torch.no_grad()
    def step(self, rate: float, clip: float = 0.0, loss: Tensor | None = None) -> Tensor:
        """One update at ``rate`` times the learning rate; returns the gradient norm before it is clipped to ``clip`` (0: never),
        which is not finite where the ``loss`` is not.

        A gradient that is not finite changes nothing: no weight, moment or average (the caller sees the norm and counts it).
        Neither does one of zero, by which nothing is learned: moments would move the weights on, and `updates` not be what was
        learned. All this is decided on the device, which the host does not wait for; only with sharded weights it does.
        """
        used = [(self.masters[name], p) for name, p in self.named if p.grad is not None]
        for master, p in used:  # one by one: all of both precisions at once would be six bytes a parameter
            assert p.grad is not None
            master.grad, p.grad = p.grad.float(), None
        norm = full_tensor(nn.utils.get_total_norm([m.grad for m, _ in used if m.grad is not None]))
        if loss is not None:
            norm = torch.where(loss.isfinite(), norm, math.nan)
        norm = torch.where(norm > MAX_NORM, math.inf, norm)
        learned = norm.isfinite() & (norm > 0)
        scale = (norm / clip).clamp(min=1.0) if clip > 0 else torch.ones_like(norm)
        if self.sharded:
            torch._foreach_div_([local_shard(m.grad) for m, _ in used if m.grad is not None], scale)
        if not self.sharded or bool(learned):
            self._update(rate, scale, learned)
        self._keep_buffers(learned)
        for master, _ in used:
            master.grad = None
        return norm

    def _update(self, rate: float, scale: Tensor, learned: Tensor) -> None:
        """The update by the masters' gradients, divided by ``scale``, if ``learned`` is True."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.learning_rate * rate
            if not self.sharded:
                optimizer.grad_scale, optimizer.found_inf = scale, (~learned).float()  # type: ignore[attr-defined]
            optimizer.step()
        self._updates += learned
        masters = [local_shard(m) for m in self.masters.values()]
        torch._foreach_copy_([local_shard(p) for _, p in self.named], masters)
        if self.ema:
            # diffusers' EMAModel does the same through a copy of all weights
            torch._foreach_lerp_(
                [local_shard(e) for e in self.ema.values()], masters, [self._ema_weight(learned)] * len(masters)
            )

    def _ema_weight(self, learned: Tensor) -> Tensor:
        """Of the newest weights in their average; 0 if nothing was learned. A new average follows faster (as in timm and
        diffusers)."""
        decay = ((1 + self._updates) / (10 + self._updates)).clamp(max=self.ema_decay)
        return (1 - decay) * learned

    def _keep_buffers(self, learned: Tensor) -> None:
        """Take the buffers as they are now, if ``learned`` is True; else bring them back to what they were."""
        for name, buffer in self.buffers.items():
            kept = self.kept_buffers[name]
            kept.copy_(torch.where(learned, buffer, kept))
            buffer.copy_(kept)
            if name in self.buffer_ema:
                self.buffer_ema[name].lerp_(kept, self._ema_weight(learned).to(kept))

    @property
    def state_bytes(self) -> int:
        """About what `state_dict` takes on the disk: fp32 masters, averages and one or two moments, over all processes."""
        moments = {
            id(p): 1 if isinstance(o, Muon) else 2 for o in self.optimizers for g in o.param_groups for p in g["params"]
        }
        return sum(4 * m.numel() * (1 + bool(self.ema) + moments[id(m)]) for m in self.masters.values())

    def averaged(self) -> dict[str, Tensor]:
        """The weights and buffers to save: the EMA, if there is one, else as they are."""
        weights = {name: value.detach() for name, value in (self.ema or self.masters).items()}
        return weights | self.buffers | self.buffer_ema

    def state_dict(self) -> dict[str, Tensor]:
        """Flat tensors only, so that a checkpoint is one safetensors file."""
        state: dict[str, Tensor] = {"updates": torch.tensor(self.updates)}
        for name, master in self.masters.items():
            state[f"master.{name}"] = master.detach()
            if self.ema:
                state[f"ema.{name}"] = self.ema[name]
            for optimizer in self.optimizers:
                for key, value in optimizer.state.get(master, {}).items():
                    state[f"state.{key}.{name}"] = value
        state |= {f"buffer.{name}": buffer for name, buffer in self.buffers.items()}
        return state | {f"buffer_ema.{name}": average for name, average in self.buffer_ema.items()}

    def check_shapes(self, shapes: dict[str, tuple[int, ...]], path: Path) -> None:
        """Raises ValueError when stored names and shapes are not those of the optimizer's parameters, and for stored buffers that
        are not its own. Those that are not stored stay as they are: earlier versions kept none."""
        known = {f"master.{name}": tuple(p.shape) for name, p in self.named}
        buffers = {f"buffer.{name}": tuple(buffer.shape) for name, buffer in self.buffers.items()}
        known |= {key: shape for key, shape in buffers.items() if key in shapes}
        saved = {key: shape for key, shape in shapes.items() if key.startswith(("master.", "buffer."))}
        wrong = sorted(key for key in known.keys() | saved.keys() if known.get(key) != saved.get(key))
        if wrong:
            key = wrong[0]
            raise ValueError(
                f"{path} is a checkpoint of other parameters: {key.partition('.')[2]} is {saved.get(key, 'missing')} there and "
                f"{known.get(key, 'missing')} here ({len(wrong)} differ); it belongs to another configuration"
            )

    def empty_state(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Tensors of the right shapes and sharding for `load_state_dict`, to be read into."""
        state = {}
        for key in names:
            name = key.split(".", 2 if key.startswith("state.") else 1)[-1]
            if key.startswith(("buffer.", "buffer_ema.")):
                state[key] = torch.zeros_like(self.buffers[name])
                continue
            counts = key == "updates" or key.startswith("state.step.")
            state[key] = torch.tensor(0.0) if counts else torch.zeros_like(self.masters[name].detach())
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Raises ValueError for the state of other parameters."""
        self.check_shapes({key: tuple(value.shape) for key, value in state.items()}, Path("the state"))
        self._updates.fill_(int(state["updates"]))
        with torch.no_grad():
            for name, p in self.named:
                self.masters[name].copy_(state[f"master.{name}"])
                p.copy_(self.masters[name])
                if self.ema:
                    self.ema[name].copy_(state.get(f"ema.{name}", state[f"master.{name}"]))
            for name, buffer in self.buffers.items():
                buffer.copy_(state.get(f"buffer.{name}", buffer))
                self.kept_buffers[name].copy_(buffer)
                if name in self.buffer_ema:
                    self.buffer_ema[name].copy_(state.get(f"buffer_ema.{name}", buffer))
        names = {master: name for name, master in self.masters.items()}
        for optimizer in self.optimizers:
            for master in (p for group in optimizer.param_groups for p in group["params"]):
                optimizer.state[master] = {  # a fused step wants its count where the master is
                    key: state[f"state.{key}.{names[master]}"].to(master.device, copy=True)
                    for key in ("step", "exp_avg", "exp_avg_sq", "momentum_buffer")
                    if f"state.{key}.{names[master]}" in state
                }


def training_buffers(module: nn.Module) -> dict[str, Tensor]:
    """The persistent buffers of modules in training mode, by their names: a forward may change them. Those of frozen parts, which
    are in evaluation mode, are no part of a checkpoint."""
    return {
        f"{path}.{name}".lstrip("."): buffer
        for path, owner in module.named_modules()
        for name, buffer in owner.named_buffers(recurse=False)
        if owner.training and name not in owner._non_persistent_buffers_set
    }


def learning_rate_factor(step: int, steps: int, warmup: int, decay: float, schedule: str = "linear") -> float:
    """Warm-up, constant, then to zero over the last ``decay`` share of the steps: "linear", "cosine" or not at all ("constant").

    A function of the step alone, so that a run goes on without a state; transformers' schedules have one, and begin at zero:
    their first step changes nothing. Raises ValueError for another schedule.
    """
    shapes = {"linear": lambda x: x, "cosine": lambda x: 0.5 - 0.5 * math.cos(math.pi * x), "constant": lambda _: 1.0}
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule is {schedule!r}; it can be {', '.join(SCHEDULES[:-1])} or {SCHEDULES[-1]}")
    rising, falling = (step + 1) / max(1, warmup), (steps - step) / max(1, round(steps * decay))
    return min(1.0, rising, shapes[schedule](min(1.0, falling)))
