"""Every kind of vision tower through one conversation, saved and loaded."""

import pytest
import torch
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2Config,
    Dinov2Model,
    SiglipVisionConfig,
    SiglipVisionModel,
)

import limner
from helpers import make_limner, picture
from limner.integrations.seed_x.qwen_vl_vision import QwenVLVisionConfig, QwenVLVisionModel
from limner.mllm.vision_tower import VisionTower, pool_features
from limner.resamplers import Resampler

SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "image_size": 32,
    "patch_size": 8,
}
TOWERS = {
    "siglip": lambda: SiglipVisionModel(SiglipVisionConfig(**SMALL, vision_use_head=False)),
    "clip": lambda: CLIPVisionModel(CLIPVisionConfig(**SMALL)),
    "dinov2": lambda: Dinov2Model(Dinov2Config(**{k: v for k, v in SMALL.items() if k != "intermediate_size"})),
    "qwen-vl": lambda: QwenVLVisionModel(
        QwenVLVisionConfig(image_size=32, patch_size=8, width=16, layers=1, heads=2, num_queries=16, hidden_size=128)
    ),
}


@pytest.mark.parametrize("tower", TOWERS)
def test_every_tower_sees_draws_saves_and_loads(tower, tmp_path):
    torch.manual_seed(0)
    model = make_limner()
    model.mllm.vision_tower = VisionTower(TOWERS[tower]().eval())
    width = model.mllm.vision_tower.width
    model.mllm.input_resampler = Resampler(width, model.mllm.width, 4, heads=2, qk_norm=True, local=True)
    model.mllm.output_resampler = Resampler(model.mllm.width, width, 4, heads=2, qk_norm=True)
    model.detokenizer.adapter.config.feature_width = width
    model.detokenizer.adapter.resampler = Resampler(
        width, 24, 4, heads=2, width=16, depth=2, pooled_width=20, qk_norm=True
    )
    asked = [{"role": "user", "content": [{"type": "image", "image": picture(1)}, {"type": "text", "text": "again"}]}]
    reply = model.eval().generate(asked, images="force", max_images=1, max_new_tokens=6)
    model.save_pretrained(tmp_path)
    again = limner.load(tmp_path, device="cpu", dtype="float32").generate(
        asked, images="force", max_images=1, max_new_tokens=6
    )
    assert again.text == reply.text and again.images[0].tobytes() == reply.images[0].tobytes()


def test_pooling_averages_neighbours_in_reading_order_or_squares_of_the_grid():
    features = torch.randn(2, 256, 3)
    # what SEED-X does to a vision tower's 256 features: nn.AvgPool1d(kernel_size=4, stride=4)
    neighbours = torch.nn.functional.avg_pool1d(features.transpose(1, 2), 4, 4).transpose(1, 2)
    torch.testing.assert_close(pool_features(features, 64, "sequence"), neighbours)
    grid = pool_features(features, 64).view(2, 8, 8, 3)
    squares = features.view(2, 16, 16, 3)
    torch.testing.assert_close(grid[:, 1, 2], squares[:, 2:4, 4:6].mean((1, 2)))
    for pool in ("grid", "sequence"):
        torch.testing.assert_close(pool_features(features, 256, pool), features)
    with pytest.raises(ValueError, match="256 features do not pool to 60: not a multiple"):
        pool_features(features, 60, "sequence")
    with pytest.raises(ValueError, match="256 features pool to 32 only if both are squares"):
        pool_features(features, 32)
