"""A joint training step at nano's size: Limner's loop against a plain one, same batches, same machine, one run.

Plain: fp32 weights, torch's default AdamW, SDPA everywhere, nothing compiled. Limner's: weights in what the machine computes
faster (bf16 or fp32) with fp32 masters, fused AdamW, products instead of SDPA for short sequences, MM-DiT and backbone
compiled by block. The last line is the ratio.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

import limner
from limner.resamplers import attention
from limner.train.datasets.mixture import Mixture, WorldSource
from limner.train.objective import JointObjective
from limner.train.optimizer import MasterOptimizer
from limner.train.recipe import load_recipe
from limner.train.trainable import TrainableModel, compile_blocks


class Plain:
    """What a script would do."""

    def __init__(self, trainable: TrainableModel) -> None:
        self.parameters = [p for p in trainable.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-4)

    def step(self, rate: float, clip: float) -> None:
        torch.nn.utils.clip_grad_norm_(self.parameters, clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def measure(plain: bool, batches: list, kind: str) -> dict[str, float]:
    """Median seconds of a step's forward, backward and update."""
    torch.manual_seed(0)
    torch._dynamo.reset()
    model = limner.load("nano", device="cpu", dtype="float32" if plain else "auto")
    model.mllm.llm.set_attn_implementation("sdpa" if plain else "eager")
    attention.PLAIN_ATTENTION_MAX_QUERIES = 0 if plain else 512
    trainable = TrainableModel(model.mllm, model.detokenizer, align=True).to(model.mllm.dtype)
    if not plain:
        compile_blocks(trainable)
    optimizer = (
        Plain(trainable) if plain else MasterOptimizer(trainable.named_parameters(), 1e-4, ema_decay=0.0, kind=kind)
    )
    stage = load_recipe("nano").joint
    times: dict[str, list[float]] = {"forward": [], "backward": [], "update": []}
    for round_ in range(3):  # the first one warms up and compiles
        for number, batch in enumerate(batches):
            begun = time.perf_counter()
            loss = JointObjective(trainable, stage, 0)(batch, number)["loss"]
            forward = time.perf_counter()
            loss.backward()
            backward = time.perf_counter()
            optimizer.step(1.0, 1.0)
            if round_:
                spent = (forward - begun, backward - forward, time.perf_counter() - backward)
                for part, seconds in zip(times, spent, strict=True):
                    times[part].append(seconds)
    attention.PLAIN_ATTENTION_MAX_QUERIES = 512
    return {part: statistics.mean(seconds) for part, seconds in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32, help="conversations a step")
    parser.add_argument("--batches", type=int, default=6, help="different batches; each is timed twice")
    options = parser.parse_args()
    mixture = Mixture(
        [(WorldSource(), 1.0)], limner.load("nano", device="cpu").encoder, options.batch, 0, pool=options.batches
    )
    batches = [mixture(step) for step in range(options.batches)]
    results = {
        "plain": measure(True, batches, "adamw"),
        "limner": measure(False, batches, "adamw"),
        "limner, muon": measure(False, batches, "muon"),
    }
    print(f"{'':14}  forward  backward  update  seconds a step")
    for name, parts in results.items():
        values = "  ".join(f"{parts[p]:7.2f}" for p in ("forward", "backward", "update"))
        print(f"{name:14}  {values}  {sum(parts.values()):7.2f}")
    print(f"ratio: {sum(results['plain'].values()) / sum(results['limner'].values()):.2f}x")


if __name__ == "__main__":
    main()
