"""What steers nano's drawings: `python benchmarks/sources.py [MODEL] [--limit 48]`.

The categories of `limner eval world`, drawn from both sources of context, from the queries' features alone, from the
prompt's hidden states alone, and from neither.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

import limner
from limner.detokenizer.condition import Condition, ConditioningAdapter
from limner.evaluation.geneval_cases import CATEGORIES
from limner.evaluation.judge import Judge
from limner.evaluation.tasks import drawing_task
from limner.evaluation.world import JUDGE_FOLDER


def heard(adapter: ConditioningAdapter, features: bool, prompt: bool) -> Callable[..., Condition]:
    """The adapter's forward with sources left out: nothing to attend to, a pooled vector of zeros."""
    forward, own = adapter.forward, adapter.config.num_tokens

    def partly(*sources: Tensor) -> Condition:
        condition = forward(*sources)
        keep = torch.arange(condition.context.shape[1], device=condition.context.device) < own
        keep = (keep & features) | (~keep & prompt)
        pooled = condition.pooled * features
        return replace(condition, context_mask=condition.context_mask & keep, pooled=pooled)

    return partly


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="nano")
    parser.add_argument("--limit", type=int, default=48)
    options = parser.parse_args()
    model = limner.load(options.model)
    judge = Judge.from_pretrained(JUDGE_FOLDER)
    adapter = model.detokenizer.adapter
    whole = adapter.forward
    for name, features, prompt in (
        ("both", True, True),
        ("queries alone", True, False),
        ("prompt alone", False, True),
        ("neither", False, False),
    ):
        adapter.forward = heard(adapter, features, prompt)
        right = sum(drawing_task(category, False, options.limit).run(model, judge).correct for category in CATEGORIES)
        adapter.forward = whole
        print(f"{name}: {right} of {options.limit * len(CATEGORIES)}", flush=True)


if __name__ == "__main__":
    main()
