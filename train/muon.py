"""Muon: matrices take orthogonalised momentum steps (Jordan et al. 2024; Liu et al. 2025, arXiv:2502.16982)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic Newton-Schulz iteration: not a fixed point at 1, but singular values of 0.5 to 1.5 in five steps"""
ITERATIONS = 5


def orthogonalize(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """About U Vᵀ of a matrix's singular value decomposition (rows, columns), computed in ``dtype``.

    Five Newton-Schulz steps leave the singular values between about 0.5 and 1.5, in bf16 as in fp32.
    """
    a, b, c = COEFFICIENTS
    wide = matrix.shape[0] <= matrix.shape[1]
    x = matrix.to(dtype) if wide else matrix.to(dtype).T
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x if wide else x.T


class Muon(torch.optim.Optimizer):
    """`torch.optim.Muon` with ``adjust_lr_fn="match_rms_adamw"``, but that the products are computed in ``dtype``: torch's are
    in bf16 everywhere, which many CPUs emulate a hundred times slower than fp32."""

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]  # it takes none
        assert closure is None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(parameter.grad)
                momentum = state["momentum_buffer"].lerp_(parameter.grad, 1 - group["momentum"])
                update = orthogonalize(parameter.grad.lerp(momentum, group["momentum"]), self.dtype)
                # steps of AdamW's size: a root mean square of 0.2
                rate = group["lr"] * 0.2 * max(parameter.shape) ** 0.5
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update.to(parameter.dtype), alpha=-rate)
