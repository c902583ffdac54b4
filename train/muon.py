"""Muon: matrices take orthogonalised momentum steps (Jordan et al. 2024; Liu et al. 2025, arXiv:2502.16982)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate

from .parallel import local_shard, shared

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic Newton-Schulz iteration: not a fixed point at 1, but singular values of 0.5 to 1.5 in five steps"""
ITERATIONS = 5
MAX_STACKED = 2**26
"""Numbers of the matrices that are orthogonalised at once, unless one alone has more: each has copies while it is."""


def orthogonalize(matrices: Tensor, dtype: torch.dtype) -> Tensor:
    """About U Vᵀ of each matrix's singular value decomposition (matrices, rows, columns), computed in ``dtype``.

    Five Newton-Schulz steps leave the singular values between about 0.5 and 1.5, in bf16 as in fp32.
    """
    if matrices.device.type == "cpu":  # which multiplies one matrix a sixth faster than several at once
        return torch.stack([_iterate(matrix, torch.addmm, dtype) for matrix in matrices])
    return _iterate(matrices, torch.baddbmm, dtype)


def _iterate(matrices: Tensor, add_product: Callable[..., Tensor], dtype: torch.dtype) -> Tensor:
    """Newton-Schulz steps of a matrix (rows, columns) or of several, as ``add_product`` takes."""
    a, b, c = COEFFICIENTS
    wide = matrices.shape[-2] <= matrices.shape[-1]
    x = matrices.to(dtype) if wide else matrices.to(dtype).mT
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = add_product(x, add_product(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x if wide else x.mT


class Muon(torch.optim.Optimizer):
    """`torch.optim.Muon` with ``adjust_lr_fn="match_rms_adamw"``, but that all matrices of a shape are orthogonalised at once,
    each of several processes does a share of them, and the products are computed in ``dtype``: torch's are in bf16 everywhere,
    which many CPUs emulate a hundred times slower than fp32.

    As torch's fused optimizers it takes ``grad_scale``, by which gradients are divided, and ``found_inf``, 1 where nothing must
    change: tensors on the parameters' device, so that the host need not wait for them.
    """

    _step_supports_amp_scaling = True

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
        self.grad_scale: Tensor | None = None
        self.found_inf: Tensor | None = None

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]  # it takes none
        assert closure is None
        for group in self.param_groups:
            for parameters in of_one_shape(p for p in group["params"] if p.grad is not None):
                count = max(1, MAX_STACKED // parameters[0].numel())
                for k in range(0, len(parameters), count):
                    self._step(parameters[k : k + count], group)

    def _step(self, parameters: Sequence[Tensor], group: dict[str, float]) -> None:
        """One step of matrices of one shape."""
        for p in parameters:
            if "momentum_buffer" not in self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        buffers = [local_shard(self.state[p]["momentum_buffer"]) for p in parameters]
        weights = [local_shard(p) for p in parameters]
        grads = torch.stack([local_shard(p.grad) for p in parameters if p.grad is not None])
        learned = grads.new_ones(()) if self.found_inf is None else 1 - self.found_inf
        if self.grad_scale is not None:
            grads = grads / self.grad_scale
        grads = torch.where(learned > 0, grads, 0.0)  # what is not finite stays so when it is multiplied by zero
        momentum = torch.stack(buffers).lerp(grads, learned * (1 - group["momentum"]))
        steps = gathered(grads.lerp(momentum, group["momentum"]), parameters)
        update = shared(partial(orthogonalize, dtype=self.dtype), steps).to(momentum)
        # steps of AdamW's size: a root mean square of 0.2
        rate = group["lr"] * 0.2 * max(parameters[0].shape) ** 0.5
        changed = torch.stack(weights) * (1 - learned * group["lr"] * group["weight_decay"])
        changed = changed - learned * rate * own_shards(update, parameters)
        torch._foreach_copy_(buffers, list(momentum))
        torch._foreach_copy_(weights, list(changed))


def of_one_shape(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Tensors grouped by shape."""
    groups: dict[torch.Size, list[Tensor]] = {}
    for tensor in tensors:
        groups.setdefault(tensor.shape, []).append(tensor)
    yield from groups.values()


def gathered(shards: Tensor, like: Sequence[Tensor]) -> Tensor:
    """The whole matrices of which this process has ``shards`` (matrices, rows, columns), sharded as those of ``like``."""
    if not isinstance(like[0], DTensor):
        return shards
    mesh, placements = like[0].device_mesh, like[0].placements
    return torch.stack([DTensor.from_local(shard, mesh, placements).full_tensor() for shard in shards])


def own_shards(whole: Tensor, like: Sequence[Tensor]) -> Tensor:
    """This process's shards of matrices that all processes have: what undoes `gathered`."""
    if not isinstance(like[0], DTensor):
        return whole
    mesh, copies = like[0].device_mesh, [Replicate()] * like[0].device_mesh.ndim
    return torch.stack(
        [DTensor.from_local(w, mesh, copies).redistribute(placements=like[0].placements).to_local() for w in whole]
    )
