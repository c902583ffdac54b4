"""fp32 master copies of (possibly bf16) weights under AdamW or Muon, with clipping and an EMA of the masters."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

import torch
from torch import Tensor, nn

_REPEATED = re.compile(r"\b(blocks|layers)\.\d+\.")


class MasterOptimizer:
    """The model keeps low-precision weights for speed; the optimizer owns fp32 masters and writes them back.

    ``kind`` "adamw", or "muon": matrices inside repeated layers take orthogonalised momentum steps scaled to
    AdamW's size (Jordan et al. 2024; Liu et al. 2025, arXiv:2502.16982), everything else AdamW. Matrices and
    kernels decay, vectors do not. ``ema_decay`` 0 keeps no average.
    """

    def __init__(
        self,
        named: Iterable[tuple[str, nn.Parameter]],
        learning_rate: float,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.99),
        ema_decay: float = 0.0,
        kind: str = "adamw",
    ) -> None:
        if kind not in ("adamw", "muon"):
            raise ValueError(f"optimizer {kind!r}; it can be adamw or muon")
        self.named = [(name, p) for name, p in named if p.requires_grad]
        if not self.named:
            raise ValueError("nothing to train: no parameter requires a gradient")
        self.learning_rate = learning_rate
        self.masters = [p.detach().float().clone().requires_grad_() for _, p in self.named]
        inner, others = [], []
        for (name, _), master in zip(self.named, self.masters, strict=True):
            (inner if kind == "muon" and master.ndim == 2 and _REPEATED.search(name) else others).append(master)
        groups = [
            {"params": [m for m in others if m.ndim >= 2], "weight_decay": weight_decay},
            {"params": [m for m in others if m.ndim < 2], "weight_decay": 0.0},
        ]
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW([g for g in groups if g["params"]], lr=learning_rate, betas=betas, eps=1e-8, fused=True)
        ]
        if inner:
            self.optimizers.append(
                torch.optim.Muon(inner, lr=learning_rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
            )
        self.ema_decay = ema_decay
        self.ema = [m.detach().clone() for m in self.masters] if ema_decay else []
        self.updates = 0

    def step(self, rate: float, clip: float) -> float:
        """One update at ``rate`` times the learning rate; returns the gradient norm before clipping.

        A gradient that is not finite changes nothing (the caller sees the norm and counts it).
        """
        used = [(m, p) for m, (_, p) in zip(self.masters, self.named, strict=True) if p.grad is not None]
        grads = [p.grad.float() for _, p in used]
        norm = float(nn.utils.get_total_norm(grads))
        if math.isfinite(norm):
            if norm > clip:
                torch._foreach_mul_(grads, clip / norm)
            for (master, _), grad in zip(used, grads, strict=True):
                master.grad = grad
            for optimizer in self.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = self.learning_rate * rate
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            self.updates += 1
            with torch.no_grad():
                torch._foreach_copy_([p for _, p in self.named], self.masters)
                if self.ema:  # a young average follows faster (as in timm and diffusers)
                    decay = min(self.ema_decay, (1 + self.updates) / (10 + self.updates))
                    torch._foreach_lerp_(self.ema, self.masters, 1 - decay)
        for _, p in self.named:
            p.grad = None
        return norm

    def averaged(self) -> dict[str, Tensor]:
        """The weights to ship: EMA where one is kept, else the masters."""
        values = self.ema or self.masters
        return {name: value.detach() for (name, _), value in zip(self.named, values, strict=True)}

    def state_dict(self) -> dict[str, Tensor]:
        """Flat tensors only, so that a checkpoint is one safetensors file."""
        state: dict[str, Tensor] = {"updates": torch.tensor(self.updates)}
        for index, ((name, _), master) in enumerate(zip(self.named, self.masters, strict=True)):
            state[f"master.{name}"] = master.detach()
            if self.ema:
                state[f"ema.{name}"] = self.ema[index]
            for optimizer in self.optimizers:
                for key, value in optimizer.state.get(master, {}).items():
                    state[f"state.{key}.{name}"] = value
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        known = {name for name, _ in self.named}
        saved = {key.removeprefix("master.") for key in state if key.startswith("master.")}
        if known != saved:
            raise ValueError(f"the checkpoint trains other parameters: {sorted(known ^ saved)[:5]} ...")
        self.updates = int(state["updates"])
        with torch.no_grad():
            for index, ((name, p), master) in enumerate(zip(self.named, self.masters, strict=True)):
                master.copy_(state[f"master.{name}"])
                p.copy_(master)
                if self.ema:
                    self.ema[index].copy_(state.get(f"ema.{name}", state[f"master.{name}"]))
                for optimizer in self.optimizers:
                    if any(master is p for group in optimizer.param_groups for p in group["params"]):
                        optimizer.state[master] = {
                            key: state[f"state.{key}.{name}"].clone()
                            for key in ("step", "exp_avg", "exp_avg_sq", "momentum_buffer")
                            if f"state.{key}.{name}" in state
                        }


def rate_at(step: int, steps: int, warmup: int, decay: float) -> float:
    """Warm-up, constant, then linear to zero over the last ``decay`` share of the steps."""
    rising = min(1.0, (step + 1) / max(1, warmup))
    falling = (steps - step) / max(1, round(steps * decay))
    return min(rising, falling, 1.0)
