"""Parts as they are released: folders of a backbone, a vision tower and an SD3 by transformers and diffusers, tiny ones."""

from __future__ import annotations

import json

from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2Config,
    Dinov2Model,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from helpers import BACKBONES, byte_tokenizer
from limner.integrations.seed_x.qwen_vl_vision import QwenVLVisionConfig, QwenVLVisionModel

SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
TOWERS = {
    "siglip": lambda: SiglipVisionModel(SiglipVisionConfig(**SMALL, intermediate_size=24, vision_use_head=False)),
    "clip": lambda: CLIPVisionModel(CLIPVisionConfig(**SMALL, intermediate_size=24)),
    "dinov2": lambda: Dinov2Model(Dinov2Config(**SMALL)),
    "qwen-vl": lambda: QwenVLVisionModel(
        QwenVLVisionConfig(image_size=32, patch_size=8, width=16, layers=1, heads=2, num_queries=16, hidden_size=128)
    ),
}
BUILD_FLAGS = "--num-queries 4 --image-tokens 4 --feature-tokens 4 --adapter-width 32 --adapter-depth 2".split()
BUILD_FLAGS += ["--shapes", "32x32", "32x64"]
"""What `limner build` joins them with"""


def save_llm(folder, backbone="qwen3"):
    words = byte_tokenizer()
    options = {
        "vocab_size": len(words),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 512,
        "pad_token_id": words.pad_token_id,
        "eos_token_id": words.eos_token_id,
        "bos_token_id": None,
    }
    config = AutoConfig.for_model(backbone.removesuffix("_sliding"), **(options | BACKBONES[backbone]))
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def save_tower(folder, tower="siglip"):
    TOWERS[tower]().save_pretrained(folder)
    if tower == "qwen-vl":  # as `limner convert` writes it
        return folder
    kind = {"siglip": "SiglipImageProcessor", "clip": "CLIPImageProcessor", "dinov2": "BitImageProcessor"}[tower]
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_processor_type": kind, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]})
    )
    return folder


def save_sd3(folder):
    SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        caption_projection_dim=32,
        joint_attention_dim=24,
        pooled_projection_dim=20,
        pos_embed_max_size=16,
        qk_norm="rms_norm",
    ).save_pretrained(folder / "transformer")
    AutoencoderKL(
        latent_channels=4,
        block_out_channels=(4, 8),
        norm_num_groups=2,
        scaling_factor=1.5,
        shift_factor=0.1,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    ).save_pretrained(folder / "vae")
    FlowMatchEulerDiscreteScheduler(shift=3.0).save_pretrained(folder / "scheduler")
    return folder
