"""Qwen-VL's vision tower against the reference."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from limner.integrations.seed_x.qwen_vl_vision import (
    QwenVLVisionConfig,
    QwenVLVisionModel,
    resize_positions,
    weights_from_released,
)
from limner.mllm.vision_tower import VisionTower

DATA = Path(__file__).parent.parent / "data"


def reference():
    sizes = json.loads((DATA / "qwen_vl_vision.json").read_text())
    sizes |= {"num_queries": sizes.pop("n_queries"), "hidden_size": sizes.pop("output_dim")}
    saved = load_file(DATA / "qwen_vl_vision.safetensors")
    model = QwenVLVisionModel(QwenVLVisionConfig(**sizes)).eval()
    weights = {k.removeprefix("weights."): v for k, v in saved.items() if k.startswith("weights.")}
    model.load_state_dict(weights_from_released(weights))
    return model, saved


@torch.inference_mode()
def test_qwen_vl_tower_equals_the_reference():
    model, saved = reference()
    features = model(saved["io.pixel_values"]).last_hidden_state
    torch.testing.assert_close(features, saved["io.features"], atol=1e-5, rtol=1e-5)
    vision_tower = VisionTower(model)
    assert (vision_tower.width, vision_tower.num_patches) == (256, 16) and vision_tower(
        saved["io.pixel_values"]
    ).shape == saved["io.features"].shape
    assert vision_tower(torch.zeros(0, 3, 56, 56)).shape == (0, 16, 256)


def test_the_pools_fixed_table_is_the_released_one():
    model, saved = reference()
    ours = model.attn_pool.positions((4, 4), model.proj)
    torch.testing.assert_close(ours, saved["weights.attn_pool.pos_embed"], atol=1e-6, rtol=1e-5)
    larger = resize_positions(ours, 8)
    assert larger.shape == (64, 256) and torch.equal(resize_positions(ours, 4), ours)


def test_qwen_vl_full_size_has_the_released_shapes():
    """Of Qwen-VL-Chat's visual tower, on the meta device: 1.9 billion parameters."""
    with torch.device("meta"):
        model = QwenVLVisionModel(QwenVLVisionConfig())
    shapes = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    assert shapes["conv1.weight"] == (1664, 3, 14, 14) and shapes["proj"] == (4096, 4096)
    assert shapes["transformer.resblocks.47.mlp.c_fc.weight"] == (8192, 1664)
    assert shapes["attn_pool.kv_proj.weight"] == (4096, 1664) and shapes["attn_pool.query"] == (256, 4096)
    assert len(shapes) == 48 * 12 + 17
    assert 1.9e9 < sum(p.numel() for p in model.parameters()) < 2.0e9
