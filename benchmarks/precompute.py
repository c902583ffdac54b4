"""Examples a second of the ``align`` stage, encoders run online against read back, at the sizes of SigLIP-base (224 pixels)
and SD3's autoencoder (16 channels), with a 54 M backbone and a 39 M MM-DiT, random weights. The last line is the ratio.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from PIL import Image
from transformers import AutoConfig, AutoModelForCausalLM, SiglipVisionConfig, SiglipVisionModel

import limner
from limner.detokenizer.autoencoder import Autoencoder
from limner.detokenizer.condition import AdapterConfig, ConditioningAdapter
from limner.detokenizer.mmdit import MMDiT
from limner.detokenizer.mmdit_config import MMDiTConfig
from limner.detokenizer.mmdit_detokenizer import MMDiTDetokenizer
from limner.inference import precision
from limner.inference.model import Limner
from limner.mllm.config import LimnerConfig
from limner.mllm.stream import StreamModel
from limner.mllm.vision_tower import VisionTower
from limner.mllm.vocabulary import add_control_tokens
from limner.train.datasets.example import CaptionedPicture, EmbeddedPicture
from limner.train.datasets.mixture import ExampleSource, Mixture
from limner.train.frozen_encoders import EncoderCache, encoders_fingerprint, precompute
from limner.train.objective import JointObjective
from limner.train.optimizer import MasterOptimizer
from limner.train.recipe_options import Recipe
from limner.train.trainable import TrainableModel, freeze_parameters


def build(size: int) -> Limner:
    torch.manual_seed(0)
    words = limner.load("nano", device="cpu").tokenizer
    config = LimnerConfig(
        num_queries=64,
        image_tokens=64,
        feature_tokens=64,
        resampler_heads=8,
        image_size=224,
        shapes=((size, size),),
        default_size=(size, size),
        max_references=1,
    )
    vocabulary = add_control_tokens(words, config)
    backbone = AutoConfig.for_model(
        "qwen3",
        vocab_size=len(words),
        hidden_size=768,
        intermediate_size=2048,
        num_hidden_layers=8,
        num_attention_heads=12,
        num_key_value_heads=6,
        head_dim=64,
        tie_word_embeddings=True,
        pad_token_id=words.pad_token_id,
        eos_token_id=words.eos_token_id,
        bos_token_id=None,
    )
    llm = AutoModelForCausalLM.from_config(backbone, attn_implementation="eager")
    vision_tower = VisionTower(SiglipVisionModel(SiglipVisionConfig(vision_use_head=False)))
    widths = (128, 256, 512, 512)
    vae = AutoencoderKL(
        block_out_channels=widths,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=16,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    adapter = AdapterConfig(
        vision_tower.width, num_tokens=64, width=512, depth=2, heads=8, context_width=512, pooled_width=512
    )
    mmdit = MMDiTConfig(
        latent_channels=16,
        width=512,
        depth=6,
        heads=8,
        context_width=512,
        pooled_width=512,
        adaln="low_rank",
        position_table=64,
        position_base=16,
        max_references=1,
    )
    return Limner(
        StreamModel(llm, vision_tower, config, vocabulary),
        MMDiTDetokenizer(ConditioningAdapter(adapter), MMDiT(mmdit), Autoencoder(vae)),
        words,
    ).to(precision.choose_dtype("cpu"))


def pictures(count: int, size: int) -> list[CaptionedPicture]:
    import io

    found = []
    for index in range(count):
        pixels = torch.randint(0, 256, (size // 8, size // 8, 3), generator=torch.Generator().manual_seed(index))
        out = io.BytesIO()
        Image.fromarray(pixels.to(torch.uint8).numpy()).resize((size, size)).save(out, "PNG")
        found.append(
            CaptionedPicture(EmbeddedPicture(f"{index}.png", out.getvalue()), (f"picture {index}",), f"{index}")
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256, help="pixels a side")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=3)
    options = parser.parse_args()
    model, examples = build(options.size), pictures(2 * options.batch, options.size)
    trainable = TrainableModel(model.mllm, model.detokenizer)
    stage = Recipe().align
    print(freeze_parameters(trainable, stage.train))
    optimizer = MasterOptimizer(trainable.named_parameters(), 1e-4)
    mixture = Mixture([(ExampleSource(examples), 1.0)], model.encoder, options.batch, 0, pool=2)
    mixture.keys = True
    rates = {}
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        count = precompute(model, examples, Path(folder))
        print(f"precomputed {count} tensors of {len(examples)} pictures in {time.perf_counter() - begun:.1f} s")
        for name, store in (("online", None), ("precomputed", EncoderCache(folder, encoders_fingerprint(model)))):
            trainable.frozen_encoders.cache = store
            spent = []
            for step in range(options.steps + 1):
                batch = mixture(step % 2)
                begun = time.perf_counter()
                JointObjective(trainable, stage, 0)(batch, step)["loss"].backward()
                optimizer.step(1.0, 1.0)
                spent.append(time.perf_counter() - begun)
            rates[name] = options.batch / (sum(spent[1:]) / options.steps)
            print(f"{name:12} {rates[name]:6.2f} examples a second")
    print(f"ratio: {rates['precomputed'] / rates['online']:.1f}x")


if __name__ == "__main__":
    main()
