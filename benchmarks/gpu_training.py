"""How fast the joint stage trains on this machine: conversations a second, share of the chip's peak, memory, compiled graphs.

    python benchmarks/gpu_training.py [--model FOLDER] [--batch 512] [--noises 4] [--steps 60]

The steps are those of `limner train`: nano's recipe, the world's conversations from worker processes, compiled blocks, Muon and
AdamW with an average. Multiplications are those of matrix products and attention in one step without compilation, forward and
backward, by torch's counter; padding counts as work. The peak is what a product of large matrices reaches here. On a CPU, with
``--batch 8 --steps 6``, it shows that it runs.
"""

from __future__ import annotations

import argparse
import math
import time
from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch._dynamo.utils import counters
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

import limner
from limner.inference import precision
from limner.train.data import JointBatch
from limner.train.datasets.mixture import Mixture, WorldSource
from limner.train.loading import batch_loader, choose_workers
from limner.train.objective import JointObjective
from limner.train.optimizer import MasterOptimizer
from limner.train.recipe import load_recipe
from limner.train.trainable import TrainableModel, compile_blocks, fix_call_shapes

POOL = 8
"""Batches in a pool: a recipe's would be told before the first step"""


class OperationCount(TorchDispatchMode):
    """Counts kernels, and the bytes that they read and write."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels: Counter[str] = Counter()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.kernels[func.overloadpacket.__name__] += 1
            self.bytes += sum(t.nbytes for t in tree_leaves((args, kwargs, out)) if isinstance(t, Tensor))
        return out


class Step:
    """A step of training, as `limner.train.loop` takes it."""

    def __init__(self, model: limner.Limner, noises: int, batch: int, device: torch.device) -> None:
        recipe = load_recipe("nano", [f"joint.flow_samples={noises}"])
        stage = recipe.joint
        model.to(device, precision.choose_dtype(device)).requires_grad_(True)
        self.trainable = TrainableModel(model.mllm, model.detokenizer, align=True).to(device, model.mllm.dtype)
        if device.type == "cuda":
            fix_call_shapes(self.trainable, batch * noises)
        parameters = self.trainable.named_parameters()
        self.optimizer = MasterOptimizer(parameters, 1e-5, 0.02, ema_decay=0.998, kind="muon")
        self.objective = JointObjective(self.trainable, stage, 0)

    def __call__(self, batch: JointBatch, number: int) -> Tensor:
        loss = self.objective(batch, number)["loss"]
        loss.backward()
        return self.optimizer.step(1.0, 1.0, loss.detach())


def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations a second of a product of large matrices, the best of five."""
    side = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    best = math.inf
    for _ in range(6):
        synchronize(device)
        begun = time.perf_counter()
        a @ b
        synchronize(device)
        best = min(best, time.perf_counter() - begun)
    return 2 * side**3 / best


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--batch", type=int, default=512, help="conversations a step")
    parser.add_argument("--noises", type=int, default=4, help="timesteps and noises of a drawing")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--eager", action="store_true", help="compile nothing")
    options = parser.parse_args()
    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    model = limner.load(options.model, device="cpu")
    mixture = Mixture([(WorldSource(), 1.0)], model.encoder, options.batch, 0, pool=POOL)
    workers = choose_workers(options.workers, cuda)
    batches = iter(batch_loader(mixture, range(options.steps + 4), workers, pin_memory=cuda))
    first = next(batches)  # workers begin before CUDA does
    step = Step(model, options.noises, options.batch, device)
    dtype = model.mllm.dtype
    peak = peak_flops(device, dtype)

    # three typical batches, without compilation: what there is to do, and whether anything waits for the device
    work, drawings = [], 0
    for number in range(3):
        batch = first if not number else next(batches)
        with FlopCounterMode(display=False) as flops, OperationCount() as count:
            step(batch, number)
        work.append(flops.get_total_flops())
        drawings += len(batch.target)
        kernels, read = sum(count.kernels.values()), count.bytes / 1e9
        print(
            f"{len(batch.target):5} drawings: {kernels} kernels, {read:.1f} GB, {work[-1] / 1e12:.2f} TFLOP", flush=True
        )
    if cuda:
        torch.cuda.set_sync_debug_mode("error")
        step(batch.pin_memory(), 3)  # raises where the host would wait
        torch.cuda.set_sync_debug_mode("default")
        print("nothing in a step waits for the device")
    if not options.eager:
        compile_blocks(step.trainable)
        begun = time.perf_counter()
        step(batch, 3)
        synchronize(device)
        print(f"first compiled step {time.perf_counter() - begun:.0f} s", flush=True)
    if cuda:
        torch.cuda.reset_peak_memory_stats()

    done, conversations, waited, begun, graphs = 0, 0, 0.0, 0.0, 0
    for number in range(options.steps):
        if number == 3:
            synchronize(device)
            begun, done, conversations, drawings, waited = time.perf_counter(), 0, 0, 0, 0.0
            graphs = counters["stats"]["unique_graphs"]
        asked = time.perf_counter()
        batch = next(batches)
        waited += time.perf_counter() - asked
        step(batch, number)
        done, conversations, drawings = done + 1, conversations + options.batch, drawings + len(batch.target)
    synchronize(device)
    seconds = time.perf_counter() - begun
    share = sum(work) / len(work) * done / seconds / peak
    print(
        f"{conversations / seconds:.0f} conversations and {drawings * options.noises / seconds:.0f} noisy drawings a second"
    )
    print(
        f"{done / seconds:.2f} steps a second, {waited / seconds:.0%} of the time waiting for batches, {workers} workers"
    )
    print(f"{share:.1%} of the {peak / 1e12:.1f} TFLOP/s that a product of matrices reaches in {dtype}")
    if cuda:
        print(f"{torch.cuda.max_memory_allocated() / 1e9:.1f} GB of GPU memory at most")
    print(f"{graphs} graphs, {counters['stats']['unique_graphs'] - graphs} of them compiled after step 3")


if __name__ == "__main__":
    main()
