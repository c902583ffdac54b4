"""What a visual tokenizer keeps before it is trained: principal components of whole pictures' image features, four to a token in
the order of their variance, rounded by FSQ, and back by least squares (`VisualTokenizer.initialize`).

python benchmarks/linear_visual_tokens.py [--model nano] [--count 4000] [--levels 8 5 5 5]
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

import limner
from limner.evaluation.geneval_cases import mixed_cases
from limner.evaluation.tokens import picture_features, pooled
from limner.inference.model import Limner
from limner.mllm.visual_tokens import VisualTokenizer, VisualTokenizerConfig
from limner.train.stages.visual_tokenizer import model_sizes, reconstruction_figures
from limner.world.scene import render

CHUNK = 50
"""Pictures that the vision tower sees at once"""


def tower_features(model: Limner, count: int) -> Tensor:
    """Of pictures of GenEval's categories (count, patches, width), in fp32."""
    scenes = [case.scene for case in mixed_cases(count)]
    chunks = [scenes[start : start + CHUNK] for start in range(0, count, CHUNK)]
    return torch.cat([picture_features(model, [render(scene) for scene in chunk]).float().cpu() for chunk in chunks])


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano")
    parser.add_argument(
        "--count", type=int, default=4000, help="pictures; a tenth of them is measured, it begins with the others"
    )
    parser.add_argument("--levels", type=int, nargs="+", default=[8, 5, 5, 5])
    options = parser.parse_args()
    torch.manual_seed(0)
    model = limner.load(options.model, dtype="float32")
    config = VisualTokenizerConfig(**model_sizes(model), levels=options.levels, architecture="mlp")
    tokenizer = VisualTokenizer(config)
    features, held = tower_features(model, options.count), torch.arange(options.count) % 10 == 0
    tokenizer.initialize(features[~held])
    other = features[held]
    for name, value in reconstruction_figures(tokenizer.eval(), other, pooled(model, other)).items():
        print(f"{name} {float(value):.4f}")


if __name__ == "__main__":
    main()
