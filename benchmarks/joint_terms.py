"""What REPA and the sources of context are worth: the joint stage on a fresh de-tokenizer, once with each choice.

`python benchmarks/joint_terms.py FOLDER [--steps 300]`: nano's stream with a new adapter and a new MM-DiT, the same seeds
and requests to draw each time. The flow loss is that of one fixed batch (SD3, section 5.3), the drawings are judged in the
categories of `limner eval world`; FOLDER keeps the sheets, and a run that was cut goes on.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch

import limner
from limner.detokenizer.condition import ConditioningAdapter
from limner.detokenizer.mmdit import MMDiT
from limner.evaluation.geneval_cases import CATEGORIES
from limner.evaluation.judge import Judge
from limner.evaluation.tasks import drawing_task
from limner.evaluation.world import JUDGE_FOLDER
from limner.inference import precision
from limner.train.datasets.mixture import Mixture, WorldSource
from limner.train.objective import JointObjective
from limner.train.recipe import load_recipe
from limner.train.stages.joint import run_joint
from limner.train.trainable import TrainableModel

CHOICES = {
    "as in the recipe": {},
    "without REPA": {"align_weight": 0.0},
    "queries alone": {"prompt_dropout": 1.0},
}
BATCH = 32


def fresh() -> limner.Limner:
    """nano with a de-tokenizer that has learned nothing."""
    model = limner.load("nano", device="cpu", dtype="float32")
    torch.manual_seed(0)
    model.detokenizer.adapter = ConditioningAdapter(model.detokenizer.adapter.config)
    model.detokenizer.mmdit = MMDiT(model.detokenizer.mmdit.config)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--limit", type=int, default=16, help="drawings a category")
    options = parser.parse_args()
    recipe = load_recipe("nano").joint
    loop = replace(recipe.loop, steps=options.steps, batch_size=BATCH, warmup_steps=50, sample_every=options.steps)
    judge = Judge.from_pretrained(JUDGE_FOLDER)
    for name, choice in CHOICES.items():
        model, stage = fresh(), replace(recipe, data=("world/draw",), loop=loop, **choice)
        run_joint(
            stage, model, 0, options.folder / name.replace(" ", "_"), torch.device("cpu"), precision.choose_dtype("cpu")
        )
        fixed = Mixture([(WorldSource(("draw",)), 1.0)], model.encoder, 4 * BATCH, 1, pool=1)(0)
        # measured as it would be used: with every source it has learned to hear
        plain = replace(stage, prompt_dropout=float(stage.prompt_dropout == 1), align_weight=0.0)
        objective = JointObjective(TrainableModel(model.mllm, model.detokenizer), plain, 0)
        with torch.compiler.set_stance("force_eager"):
            with torch.no_grad():
                flow = float(objective(fixed, 0)["flow"])
            right = sum(
                drawing_task(category, False, options.limit).run(model, judge).correct for category in CATEGORIES
            )
        print(f"{name}: flow {flow:.4f}, {right} of {options.limit * len(CATEGORIES)} drawings right", flush=True)


if __name__ == "__main__":
    main()
