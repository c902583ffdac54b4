"""One interleaved reply of a large model with random weights: `python benchmarks/large.py [--llm 4b] [--device cuda]`.

SD3.5-medium's MM-DiT and autoencoder, SigLIP2-so400m's vision tower and a Qwen3 backbone, from their public
configurations, in what the machine computes faster, bf16 or fp32. Prints seconds and memory by part: does the code carry
these sizes, and what do they cost?
"""

from __future__ import annotations

import argparse
import resource
import time

import torch
from diffusers import AutoencoderKL
from transformers import Qwen3Config, Qwen3ForCausalLM, SiglipVisionConfig, SiglipVisionModel

import limner
from limner.detokenizer.autoencoder import Autoencoder
from limner.detokenizer.condition import AdapterConfig, ConditioningAdapter
from limner.detokenizer.mmdit import MMDiT
from limner.detokenizer.mmdit_config import MMDiTConfig
from limner.detokenizer.mmdit_detokenizer import MMDiTDetokenizer
from limner.inference import precision
from limner.inference.model import Limner
from limner.mllm.config import LimnerConfig
from limner.mllm.events import PictureBegun, PictureDone, PictureStep
from limner.mllm.stream import StreamModel
from limner.mllm.vision_tower import VisionTower
from limner.mllm.vocabulary import add_control_tokens

BACKBONES = {
    "0.6b": {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16},
    "1.7b": {"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28, "num_attention_heads": 16},
    "4b": {"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32},
}


def make(backbone: str, side: int, device: str) -> Limner:
    """In the precision that ``device`` is fast in, made where it is to be."""
    dtype = precision.choose_dtype(device)
    torch.set_default_dtype(dtype)
    with torch.device(device):
        model = parts(backbone, side)
    torch.set_default_dtype(torch.float32)
    return model.to(device, dtype)


def parts(backbone: str, side: int) -> Limner:
    words = limner.load("nano", device="cpu").tokenizer
    config = LimnerConfig(image_size=384, resampler_heads=16, shapes=(), default_size=(side, side))
    vocabulary = add_control_tokens(words, config)
    llm = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=151936, num_key_value_heads=8, head_dim=128, tie_word_embeddings=True, **BACKBONES[backbone]
        )
    )
    vision_tower = SiglipVisionModel(
        SiglipVisionConfig(
            hidden_size=1152,
            intermediate_size=4304,
            num_hidden_layers=27,
            num_attention_heads=16,
            image_size=384,
            patch_size=16,
            vision_use_head=False,
        )
    )
    stream = StreamModel(llm, VisionTower(vision_tower), config, vocabulary)
    mmdit = MMDiT(
        MMDiTConfig(
            latent_channels=16,
            width=1536,
            depth=24,
            heads=24,
            qk_norm=True,
            position_table=384,
            position_base=64,
            dual_attention_blocks=tuple(range(13)),
            max_references=1,
        )
    )
    adapter = ConditioningAdapter(AdapterConfig(feature_width=1152))
    vae = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        latent_channels=16,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=1.5305,
        shift_factor=0.0609,
    )
    return Limner(stream, MMDiTDetokenizer(adapter, mmdit, Autoencoder(vae), 64 * 64, 3.0), words).eval()


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--llm", choices=BACKBONES, default="1.7b")
    options.add_argument("--side", type=int, default=512)
    options.add_argument("--steps", type=int, default=4)
    options.add_argument("--tokens", type=int, default=8, help="of text after the picture")
    options.add_argument("--device", default="cpu")
    chosen = options.parse_args()
    from limner.inference.info import count_parameters

    model = make(chosen.llm, chosen.side, chosen.device)
    counts = count_parameters(model)
    for name, count in counts.items():
        print(f"  {name:32} {count / 1e9:6.2f} B parameters {count * 2 / 1e9:6.2f} GB")
    print(f"  {'in all':32} {sum(counts.values()) / 1e9:6.2f} B parameters {sum(counts.values()) * 2 / 1e9:6.2f} GB")

    from PIL import Image

    seen = Image.new("RGB", (384, 384), (200, 60, 60))
    content = [{"type": "image", "image": seen}, {"type": "text", "text": "draw this again, in blue"}]
    start = last = time.perf_counter()
    steps = []
    for event in model.stream(
        [{"role": "user", "content": content}],
        images="force",
        max_images=1,
        max_new_tokens=chosen.tokens,
        num_inference_steps=chosen.steps,
    ):
        now = time.perf_counter()
        if isinstance(event, PictureBegun):
            print(f"  reading {now - start:.1f} s (a picture and a sentence, then {model.config.num_queries} queries)")
        elif isinstance(event, PictureStep):
            steps.append(now - last)
        elif isinstance(event, PictureDone):
            median = sorted(steps)[len(steps) // 2]
            print(f"  drawing {chosen.side} x {chosen.side}: {median:.1f} s a guided step, decoding {now - last:.1f} s")
            drawn = now
        last = now
    print(f"  seeing it and {chosen.tokens} tokens more: {last - drawn:.1f} s")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    if chosen.device.startswith("cuda"):
        peak = torch.cuda.max_memory_allocated() / 1e9
    print(f"one reply {last - start:.1f} s, peak memory {peak:.2f} GB")


if __name__ == "__main__":
    main()
