"""Tiny models, made in milliseconds, for every test."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedTokenizerFast,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from limner.detokenizer.autoencoder import Autoencoder, kl_autoencoder
from limner.detokenizer.condition import AdapterConfig, ConditioningAdapter
from limner.detokenizer.mmdit import MMDiT
from limner.detokenizer.mmdit_config import MMDiTConfig
from limner.detokenizer.mmdit_detokenizer import MMDiTDetokenizer
from limner.inference.engine import Engine
from limner.inference.generation_config import GenerationConfig
from limner.inference.model import Limner
from limner.inference.requests import Request
from limner.integrations.sdxl.detokenizer import SDXLAdapter, SDXLAdapterConfig, SDXLDetokenizer
from limner.mllm.config import LimnerConfig
from limner.mllm.decoding import Decoder, DrawRequest, Row
from limner.mllm.decoding_options import DecodingOptions
from limner.mllm.encoding import Encoded, StreamEncoder
from limner.mllm.events import Event
from limner.mllm.stream import StreamModel
from limner.mllm.vision_tower import VisionTower
from limner.mllm.visual_tokens.config import VisualTokenizerConfig
from limner.mllm.visual_tokens.tokenizer import VisualTokenizer
from limner.mllm.vocabulary import add_control_tokens
from limner.train.finetune import FinetuneConfig, prepare_adapter
from limner.train.stages.tokenizer import CHAT_TEMPLATE

BACKBONES = {
    "qwen3": {"num_hidden_layers": 2, "head_dim": 16},
    "llama": {"num_hidden_layers": 2},
    "phi3": {"num_hidden_layers": 2},
    # windows shorter than any conversation of these tests
    "mistral": {"num_hidden_layers": 2, "head_dim": 16, "sliding_window": 9},
    "gemma3_text": {
        "num_hidden_layers": 3,
        "head_dim": 16,
        "sliding_window": 7,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "query_pre_attn_scalar": 16,
    },
    "qwen3_sliding": {
        "num_hidden_layers": 2,
        "head_dim": 16,
        "use_sliding_window": True,
        "sliding_window": 8,
        "layer_types": ["full_attention", "sliding_attention"],
    },
}


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, and ChatML's markers."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def stream_config(**changes) -> LimnerConfig:
    options = {
        "num_queries": 4,
        "image_tokens": 4,
        "local_image_tokens": True,
        "feature_tokens": 4,
        "resampler_heads": 2,
        "resampler_qk_norm": True,
        "image_size": 32,
        "default_size": (32, 32),
        "max_references": 2,
    }
    return LimnerConfig(**(options | changes))


def make_stream(backbone: str = "qwen3", seed: int = 0, hidden: int = 32, std: float = 0.3, **changes):
    """A stream model with random weights and its encoder."""
    torch.manual_seed(seed)
    config = stream_config(**changes)
    tokenizer = byte_tokenizer()
    vocabulary = add_control_tokens(tokenizer, config)
    options = {
        "vocab_size": len(tokenizer),
        "hidden_size": hidden,
        "intermediate_size": 48,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 1024,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
    }
    llm_config = AutoConfig.for_model(backbone.removesuffix("_sliding"), **(options | BACKBONES[backbone]))
    llm = AutoModelForCausalLM.from_config(llm_config)
    vision_tower = VisionTower(
        SiglipVisionModel(
            SiglipVisionConfig(
                hidden_size=16,
                intermediate_size=24,
                num_hidden_layers=1,
                num_attention_heads=2,
                image_size=32,
                patch_size=8,
                vision_use_head=False,
            )
        )
    )
    visual = tiny_visual_tokenizer(config) if config.visual_codes else None
    model = StreamModel(llm, vision_tower, config, vocabulary, visual)
    for parameter in model.parameters():
        if parameter.ndim >= 2:
            torch.nn.init.normal_(parameter, std=std)
    for parameter in visual.parameters() if visual is not None else ():
        if parameter.ndim >= 2:  # large, so that no two pictures have the same codes
            torch.nn.init.normal_(parameter, std=0.6)
    return model.eval(), StreamEncoder(tokenizer, config, vocabulary)


def make_limner(seed: int = 0, backbone: str = "qwen3", **changes) -> Limner:
    mllm, encoder = make_stream(backbone, seed, **changes)
    prompt = mllm.width if mllm.config.prompt_tokens else 0
    adapter = AdapterConfig(
        16,
        num_tokens=4,
        width=16,
        depth=2,
        heads=2,
        qk_norm=True,
        context_width=24,
        pooled_width=20,
        prompt_width=prompt,
    )
    mmdit = MMDiTConfig(
        latent_channels=4,
        width=32,
        depth=2,
        heads=2,
        context_width=24,
        pooled_width=20,
        adaln="low_rank",
        adaln_rank=8,
        position_table=8,
        position_base=4,
        max_references=2,
    )
    detokenizer = MMDiTDetokenizer(
        ConditioningAdapter(adapter), MMDiT(mmdit), kl_autoencoder((8, 16), 4, 2), trained_tokens=16
    )
    for parameter in detokenizer.mmdit.parameters():
        if parameter.ndim >= 2:
            torch.nn.init.normal_(parameter, std=0.1)
    defaults = GenerationConfig(max_new_tokens=8, num_inference_steps=3, guidance_scale=2.0)
    return Limner(mllm, detokenizer, encoder.tokenizer, defaults).eval()


def make_sdxl(channels: int = 4, seed: int = 0) -> SDXLDetokenizer:
    """SDXL at a tiny size, steered by features of width 48; ``channels`` 8 takes a picture too."""
    torch.manual_seed(seed)
    config = SDXLAdapterConfig(
        feature_width=48,
        feature_tokens=4,
        num_tokens=4,
        width=32,
        depth=2,
        heads=2,
        head_width=16,
        context_widths=(24, 40),
    )
    adapter = SDXLAdapter(config)
    adapter.negative_features.normal_()
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=channels,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(32, 64),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4),
        transformer_layers_per_block=(1, 2),
        use_linear_projection=True,
        norm_num_groups=16,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 40,
        cross_attention_dim=64,
    )
    vae = AutoencoderKL(
        block_out_channels=(16, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        latent_channels=4,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=8,
        scaling_factor=0.13025,
    )
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="leading", steps_offset=1
    )
    return SDXLDetokenizer(adapter, unet, Autoencoder(vae), scheduler).eval()


def picture(seed: int = 0, size: tuple[int, int] = (32, 32)) -> Image.Image:
    """A random RGB picture of (height, width)."""
    generator = torch.Generator().manual_seed(seed)
    return Image.fromarray(torch.randint(0, 256, (*size, 3), generator=generator, dtype=torch.uint8).numpy())


def psnr(a, b) -> float:
    """Of two pictures, in dB; 99 for equal ones."""
    error = np.mean((np.asarray(a, dtype=float) - np.asarray(b, dtype=float)) ** 2)
    return 99.0 if error == 0 else 10 * np.log10(255**2 / error)


def is_empty(engine: Engine) -> bool:
    """Whether no request has left anything in the engine."""
    return not (
        engine.requests
        or engine.submitted
        or engine.left
        or engine.queue
        or engine.writing
        or engine.waiting
        or engine.drawing
        or engine.prefixes
        or engine.busy
        or engine.driver
    )


class GivenPictures:
    """A de-tokenizer that draws at once what ``draw`` gives for requests."""

    def __init__(self, draw: Callable[[list[DrawRequest]], list[Image.Image]]) -> None:
        self.draw = draw

    def begin_drawing(self, detokenizer, group, config, options, seeds):
        images = np.stack([np.array(image) for image in self.draw(group)])
        return SimpleNamespace(latents=torch.from_numpy(images), shape=(), done=1, total=1)

    def decode(self, drawing):
        return drawing.latents


@dataclass
class Played:
    rows: list[Row]
    events: list[Event]
    requests: list[DrawRequest]
    logits: dict[int, list[torch.Tensor]]
    """What each row's tokens were chosen from, where they were scripted"""


def play(
    model: StreamModel,
    encoder: StreamEncoder,
    conversations: list,
    options: DecodingOptions | None = None,
    seeds: list[int] | None = None,
    scripts: list[str] | None = None,
    draw: Callable[[list[DrawRequest]], list[Image.Image]] | None = None,
) -> Played:
    """Replies to a batch of prompts (or encoded conversations) by the engine, without a de-tokenizer.

    ``scripts`` are what the rows write ("@" for a picture, then the end), whatever their logits are.
    """
    asked: list[DrawRequest] = []
    logits: dict[int, list[torch.Tensor]] = {row: [] for row in range(len(conversations))}
    left = [list(script) for script in scripts or []]

    def drawn(requests):
        asked.extend(requests)
        return draw(requests) if draw else [picture(r.row * 10 + r.index, r.size) for r in requests]

    def written(decoder, rows, scores):
        for row, own in zip(rows, scores, strict=True):
            logits[row.index].append(own.clone())
        return [next_of(decoder, left[row.index]) for row in rows]

    def next_of(decoder, script):
        if not script:
            return decoder.vocabulary.end_of_turn[0]
        letter = script.pop(0)
        return decoder.begin_image_ids[0] if letter == "@" else decoder.encoder.text_ids(letter)[0]

    given = GivenPictures(drawn)
    adapters = SimpleNamespace(view_with=lambda half, active: model if half == "mllm" else given)
    engine = Engine(SimpleNamespace(encoder=encoder, mllm=model, adapters=adapters, offload=None))
    encoded = [c if isinstance(c, Encoded) else encoder.encode(c, add_generation_prompt=True) for c in conversations]
    config = GenerationConfig(**asdict(options or DecodingOptions()))
    request = Request(encoded, seeds or [0] * len(encoded), config)
    choosing = patch.object(Decoder, "choose", written) if scripts else nullcontext()
    with patch("limner.inference.scheduler.begin_drawing", given.begin_drawing), choosing:
        events = list(engine.events(request))
    return Played(request.rows, events, asked, logits)


def trained_adapter(model, folder, seed, modules_to_save=("queries", "boi"), std=0.1):
    """An adapter with random weights, saved; the model is the base again."""
    generator = torch.Generator().manual_seed(seed)
    trainable, training = prepare_adapter(model, FinetuneConfig(rank=2, modules_to_save=modules_to_save))
    with training:
        with torch.no_grad():
            for parameter in trainable.parameters():
                if parameter.requires_grad:
                    parameter.add_(std * torch.randn(parameter.shape, generator=generator))
        training.save(folder, dict(model.named_parameters()), {"seed": seed})
    model.requires_grad_(False)
    return folder


def drawn_pixels(model, **options):
    reply = model.generate("draw", images="force", max_images=1, max_new_tokens=4, seed=3, **options)
    return reply.images[0]


def halves(model):
    """What answers a request."""
    weights = model.adapters.weights()
    return model.adapters.view("mllm", weights), model.adapters.view("detokenizer", weights)


@torch.no_grad()
def adapted_outputs(model):
    """Hidden states, logits and a velocity: what adapters change."""
    mllm, detokenizer = halves(model)
    encoded = model.encoder.encode("a red cat", add_generation_prompt=True)
    ids = torch.tensor([[*encoded.input_ids, mllm.vocabulary.boi]])
    none = torch.zeros(0, dtype=torch.long)
    embeds = mllm.build_inputs_embeds(ids, none, torch.zeros(0, 4, mllm.width))
    hidden = mllm.llm.base_model(inputs_embeds=embeds).last_hidden_state
    generator = torch.Generator().manual_seed(0)
    config = detokenizer.mmdit.config
    latents = torch.randn(1, config.latent_channels, 8, 8, generator=generator)
    context = torch.randn(1, 4, config.context_width, generator=generator)
    velocity = detokenizer.mmdit(latents, torch.tensor([0.5]), context, torch.zeros(1, config.pooled_width))
    return [hidden, mllm.logits(hidden), mllm.queries.weight.clone(), velocity]


def gap(a, b):
    return max((x - y).abs().max().item() for x, y in zip(a, b, strict=True))


def png_bytes(seed: int = 0, size: tuple[int, int] = (32, 32)) -> bytes:
    """The file of `picture`."""
    out = io.BytesIO()
    picture(seed, size).save(out, "PNG")
    return out.getvalue()


def write_lines(path: Path, rows: Sequence[Any]) -> Path:
    """A file of JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def tiny_visual_tokenizer(config: LimnerConfig) -> VisualTokenizer:
    """Of 24 codes, for the vision tower of these models."""
    sizes = {"patch_width": 16, "num_patches": 16, "feature_width": 16, "feature_tokens": config.feature_tokens}
    tokens = {"num_tokens": config.visual_lengths[-1], "lengths": config.visual_lengths, "levels": (3, 8)}
    depth = {"width": 16, "heads": 2, "encoder_depth": 1, "decoder_depth": 1}
    architecture = "mlp" if config.draft_by_queries else "transformer"
    own = VisualTokenizerConfig(architecture=architecture, **sizes, **tokens, **depth)
    return VisualTokenizer(own).requires_grad_(False)


TOKENS = {"visual_codes": 24, "visual_lengths": (1, 2, 4)}
"""Changes of a configuration (`stream_config`) that draws by visual tokens too"""
DRAFTED = {**TOKENS, "draft_by_queries": True}
"""Of one whose queries make a draft of them"""
