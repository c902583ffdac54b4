"""One process of a distributed run, launched by `test_parallel.py`: trains a tiny model and notes its losses."""

import atexit
import json
import random
import sys
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from helpers import TOKENS, make_limner, picture
from limner.train import loop, parallel
from limner.train.data import joint_batch
from limner.train.datasets.mixture import conversation_size
from limner.train.objective import JointObjective
from limner.train.optimizer import MasterOptimizer
from limner.train.picture_shares import PictureShares, with_tokens
from limner.train.self_distillation import ReplayObjective
from limner.train.stages.joint_options import JointStage
from limner.train.trainable import TrainableModel

SHAPES = ((32, 32), (16, 32))
SHARES = PictureShares()
"""Of a model that draws in several ways"""


def conversation(seed: int):
    """Two of three draw nothing, so that some processes have no picture at all, and in one step of five none has."""
    words = [{"role": "user", "content": f"say {seed}"}, {"role": "assistant", "content": "x" * (1 + seed % 7)}]
    if seed % 3 or seed // 5 % 5 == 2:
        return words
    shown = [{"type": "image", "image": picture(seed + 1)}] if seed % 2 else []
    drawn = {"type": "image", "image": picture(seed, SHAPES[seed // 3 % 2])}
    return [
        {"role": "user", "content": [*shown, {"type": "text", "text": f"draw {seed}"}]},
        {"role": "assistant", "content": [drawn]},
    ]


class Nothing:
    """An adapter that was never put in."""

    disabled = nullcontext


def batch(encoder, step: int):
    logged = [conversation(step * 5 + k) for k in range(5)]
    mine = parallel.balanced_indices([float(conversation_size(encoder, messages)[1]) for messages in logged])
    told = [with_tokens(logged[i], encoder.config, SHARES, random.Random(f"{step}/{i}")) for i in mine]
    made = joint_batch(told, encoder, mine)
    made.sources = [i % 2 for i in mine]
    return made


def main(folder: Path, kind: str, steps: int, optimizer: str, keeps: bool, tokens: bool) -> None:
    torch.set_num_threads(1)
    at_the_end = folder / f"joined-{parallel.rank()}"
    atexit.register(lambda: at_the_end.write_text(str(torch.distributed.is_initialized())))
    parallel.init_process_group()
    ways = {**TOKENS, "query_lengths": (1, 2, 4)} if tokens else {}
    model = make_limner(shapes=SHAPES, prompt_tokens=4, **ways)
    trainable = TrainableModel(model.mllm, model.detokenizer, align=True)
    stage = JointStage(align_weight=0.5, align_block=0, flow_samples=2)
    config = loop.LoopConfig(
        steps=steps,
        learning_rate=3e-4,
        warmup_steps=1,
        decay_ratio=0.0,
        num_workers=0,
        ema_decay=0.9,
        log_every=1,
        save_every=5,
        sample_every=2,
        parallel=kind,
        optimizer=optimizer,
        save_total_limit=3,
    )
    logged, norms = [], []
    real, real_total = MasterOptimizer.step, parallel.sum_over_processes

    def step(self, *given):
        norm = real(self, *given)
        norms.append(float(norm))
        return norm

    MasterOptimizer.step = step

    objective = ReplayObjective(trainable, stage, 3, Nothing()) if keeps else JointObjective(trainable, stage, 3)

    def noted(given, number):
        values = objective(given, number)
        logged.append({k: real_total(float(v.detach())) for k, v in sorted(values.items())})
        return values

    measured = partial(JointObjective(trainable, stage, 0), batch(model.encoder, 1000), 0)
    sampled = []
    make_batch = partial(batch, model.encoder)
    loop.fit("test", trainable, make_batch, noted, config, folder, validation=measured, sample=sampled.append)
    with torch.no_grad():
        whole = {k: real_total(float(v)) for k, v in measured().items()}
    done = len(logged)
    loop.fit("test", trainable, make_batch, noted, replace(config, steps=2, sample_every=0), folder / "again")
    if parallel.rank() == 0:
        kinds = {type(p).__name__ for p in trainable.parameters()}
        newest = max((folder / "checkpoints").iterdir())
        (folder / f"losses-{parallel.world_size()}-{kind}.json").write_text(
            json.dumps(
                {
                    "losses": logged[:done],
                    "norms": norms[:done],
                    "again": logged[done:],
                    "validation": [json.loads(line) for line in (folder / "validation.jsonl").open()],
                    "progress": {
                        key: value
                        for key, value in json.loads((newest / "progress.json").read_text()).items()
                        if key != "files"  # as many as there were processes
                    },
                    "whole": whole,
                    "sampled": sampled,
                    "kinds": sorted(kinds),
                    "sum": float(sum(p.detach().double().abs().sum() for p in trainable.parameters())),
                }
            )
        )


if __name__ == "__main__":
    main(
        Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4], "keeps" in sys.argv[5:], "tokens" in sys.argv[5:]
    )
