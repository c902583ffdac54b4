"""Training steps at the size of released parts, random weights: `python benchmarks/large_training.py align lora joint`.

The model of `large.py` (SD3.5-medium's MM-DiT and autoencoder, SigLIP2-so400m's vision tower, a Qwen3 backbone), on
captioned pictures, as `limner train released` and `limner finetune` train it. Prints, of each stage, what rests in memory
between two steps (weights, masters, AdamW), the peak, and conversations a second.
"""

from __future__ import annotations

import argparse
import gc
import time

import torch
from large import BACKBONES, make
from precompute import pictures

from limner.train.datasets.mixture import ExampleSource, Mixture
from limner.train.finetune import FinetuneConfig, prepare_adapter
from limner.train.objective import JointObjective
from limner.train.optimizer import MasterOptimizer
from limner.train.recipe import load_recipe
from limner.train.trainable import TrainableModel, compile_blocks, freeze_parameters, gradient_checkpointing

GB = 1e9


def measure(kind: str, options: argparse.Namespace) -> None:
    model = make(options.llm, options.side, options.device)
    if kind == "lora":
        config = FinetuneConfig(rank=16, alpha=16, replay="none")
        trainable, _ = prepare_adapter(model, config)
        stage = config.joint
    else:
        stage = getattr(load_recipe("released"), kind)
        trainable = TrainableModel(model.mllm, model.detokenizer)
        freeze_parameters(trainable, stage.train)
    if stage.compile and not options.eager:
        compile_blocks(trainable)
    optimizer = MasterOptimizer(trainable.named_parameters(), 1e-5)
    mixture = Mixture(
        [(ExampleSource(pictures(2 * options.batch, options.side)), 1.0)], model.encoder, options.batch, 0, pool=2
    )
    batches = [mixture(step) for step in range(2)]
    spent = []
    with gradient_checkpointing(trainable, stage.gradient_checkpointing or options.checkpointing):
        for step in range(options.steps + 2):
            begun = time.perf_counter()
            JointObjective(trainable, stage, 0)(batches[step % 2], step)["loss"].backward()
            norm = optimizer.step(1.0, 1.0)
            assert norm == norm
            spent.append(time.perf_counter() - begun)
    whole = sum(p.numel() for p in model.parameters())
    learns = sum(p.numel() for p in trainable.parameters() if p.requires_grad)
    seconds = sorted(spent[2:])[options.steps // 2]
    line = f"{kind:6} {whole / 1e9:.2f} B parameters, {learns / 1e9:.3f} B learn"
    line += f": {options.batch / seconds:.2f} conversations a second"
    if options.device.startswith("cuda"):
        at_rest, peak = torch.cuda.memory_allocated() / GB, torch.cuda.max_memory_allocated() / GB
        line += f", {at_rest:.1f} GB between steps, {peak:.1f} GB at most"
    print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="+", choices=("align", "lora", "joint"))
    parser.add_argument("--llm", choices=BACKBONES, default="4b")
    parser.add_argument("--side", type=int, default=512, help="pixels a side")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument(
        "--checkpointing", action="store_true", help="compute blocks again in the backward pass, for LoRA too"
    )
    parser.add_argument("--eager", action="store_true", help="compile nothing")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    for kind in options.kinds:
        measure(kind, options)
        gc.collect()
        if options.device.startswith("cuda"):
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


if __name__ == "__main__":
    main()
