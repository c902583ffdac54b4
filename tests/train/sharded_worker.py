"""One process of a sharded recipe and a sharded fine-tuning, launched by `test_parallel.py`."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch

import limner
from limner.train import parallel
from limner.train.distill import DistillConfig
from limner.train.finetune import finetune, load_config
from limner.train.loop import LoopConfig
from limner.train.recipe import load_recipe, run_recipe
from limner.train.stages.student import run_student


def main(folder: Path, base: Path, data: Path) -> None:
    """Three stages one after the other, then an adapter with replay; backbone and MM-DiT are frozen in ``align``."""
    torch.set_num_threads(1)
    loop = LoopConfig(
        steps=3,
        batch_size=4,
        num_workers=0,
        warmup_steps=1,
        sample_every=2,
        parallel="fsdp",
        log_every=1,
        ema_decay=0.9,
    )
    overrides = [f"output={folder / 'recipe'}", f"warm_start={base}", "dtype=float32", "device=cpu"]
    recipe = load_recipe("released", [*overrides, "data=world"])
    changes = {"loop": loop, "sample_prompts": ("a cat",), "compile": False, "gradient_checkpointing": False}
    align, joint = (replace(stage, **changes) for stage in (recipe.align, recipe.joint))
    recipe = replace(recipe, language=replace(recipe.language, loop=loop), align=align, joint=joint)
    run_recipe(recipe, ("language", "align", "joint"))
    model = limner.load(base, dtype="float32", device="cpu")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    options = ["joint.loop.steps=3", "joint.loop.batch_size=4", "joint.loop.num_workers=0", "rank=2", "samples=1"]
    options += ["replay=world", "modules_to_save=[queries,boi]", "joint.loop.log_every=1"]
    finetune(model, data, folder / "adapter", load_config([*options, "joint.loop.parallel=fsdp"]))
    after = dict(model.named_parameters())
    same = before.keys() == after.keys() and all(torch.equal(after[name], value) for name, value in before.items())
    student = replace(loop, learning_rate=1e-3, sample_every=0, parallel="ddp")
    distillation = DistillConfig(steps=1, teacher_steps=2, rank=2, data=(str(data),), loop=student)
    run_student(distillation, base, folder / "student", torch.device("cpu"), ["a cat"] * 4)  # the first process draws
    if parallel.rank() == 0:
        drawn = model.draw(["a cat"], num_inference_steps=1, max_new_tokens=4)[0].images
        (folder / "made.json").write_text(json.dumps({"as_before": same, "drawn": len(drawn)}))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
