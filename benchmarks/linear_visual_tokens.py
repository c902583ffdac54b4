"""What a linear visual tokenizer keeps, which a trained one has to surpass: the principal components of whole pictures' image
features, four to a token in the order of their variance, rounded by FSQ, and back by least squares from each prefix.

python benchmarks/linear_visual_tokens.py [--model nano] [--count 4000] [--levels 8 5 5 5]
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from torch import Tensor

import limner
from limner.evaluation.geneval_cases import mixed_cases
from limner.evaluation.tokens import picture_features, pooled
from limner.inference.model import Limner
from limner.mllm.visual_tokens.losses import codebook_use
from limner.mllm.visual_tokens.quantizers import FiniteScalarQuantizer
from limner.world.scene import render

LENGTHS = (1, 2, 4, 8, 16, 32)
CHUNK = 50
"""Pictures that the vision tower sees at once"""


def image_features(model: Limner, count: int) -> Tensor:
    """Of pictures of GenEval's categories (count, feature_tokens, width), in fp32."""
    scenes = [case.scene for case in mixed_cases(count)]
    made = []
    for start in range(0, count, CHUNK):
        seen = picture_features(model, [render(scene) for scene in scenes[start : start + CHUNK]])
        made.append(pooled(model, seen).float().cpu())
    return torch.cat(made)


def with_ones(x: Tensor) -> Tensor:
    return torch.cat([x, x.new_ones(len(x), 1)], dim=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano")
    parser.add_argument(
        "--count", type=int, default=4000, help="pictures; a tenth of them is measured, the others are fitted"
    )
    parser.add_argument("--levels", type=int, nargs="+", default=[8, 5, 5, 5])
    options = parser.parse_args()
    torch.manual_seed(0)
    features = image_features(limner.load(options.model, dtype="float32"), options.count)
    shape, held = features.shape[1:], torch.arange(options.count) % 10 == 0
    fitted, true = features[~held].flatten(1), features[held].flatten(1)
    mean, width = fitted.mean(0), len(options.levels)
    components = torch.svd_lowrank(fitted - mean, q=width * LENGTHS[-1] + 32, niter=4)[2][:, : width * LENGTHS[-1]]
    scale = ((fitted - mean) @ components).std(0)
    quantizer = FiniteScalarQuantizer(options.levels)

    def codes(x: Tensor) -> Tensor:
        return quantizer.vectors_to_codes(((x - mean) @ components / scale).unflatten(1, (LENGTHS[-1], width)))

    ours, theirs = (quantizer.codes_to_vectors(codes(x)).flatten(1) for x in (fitted, true))
    print(f"codebook used {codebook_use(codes(true), quantizer.num_codes):.3f}, by {len(true)} pictures")
    for length in LENGTHS:
        back = torch.linalg.lstsq(with_ones(ours[:, : width * length]), fitted).solution
        decoded = with_ones(theirs[:, : width * length]) @ back
        cosine = F.cosine_similarity(decoded.unflatten(1, shape), true.unflatten(1, shape), dim=-1).mean()
        error = (decoded - true).square().mean() / fitted.var(0).mean()
        print(f"{length:3} tokens: cosine {cosine:.4f}, squared error {error:.3f} of the variance")


if __name__ == "__main__":
    main()
