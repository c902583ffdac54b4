"""``limner draw --backend sd3``: SD3 with its own text encoders, a plain text-to-image baseline.

Esser et al. 2024, arXiv:2403.03206: the states of CLIP-L and CLIP-G are concatenated along the width, T5's follow as further
tokens. Each encoder may be absent; its output is then zeros, as in a part of SD3's training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import FlowMatchEulerDiscreteScheduler
from PIL import Image
from torch import Tensor, nn
from transformers import AutoTokenizer, CLIPTextModelWithProjection, PreTrainedTokenizerBase, T5EncoderModel

from ...detokenizer.condition import Condition
from ...detokenizer.drawing_options import DrawingOptions
from ...detokenizer.files import load_strict
from ...detokenizer.mmdit_detokenizer import MMDiTDetokenizer
from .files import load_pipeline

CLIP_TOKENS = 77
T5_TOKENS = 256
DEFAULTS = DrawingOptions(num_inference_steps=28, guidance_scale=7.0)


class TextEncoder(nn.Module):
    """A text encoder with its tokenizer."""

    def __init__(self, model: nn.Module, tokenizer: PreTrainedTokenizerBase, tokens: int) -> None:
        super().__init__()
        self.model, self.tokenizer, self.tokens = model, tokenizer, tokens

    def forward(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        """States (batch, tokens, width) and, for CLIP, the projected vector (batch, width). CLIP's states are those before the
        last layer."""
        inputs = self.tokenizer(
            list(prompts), padding="max_length", max_length=self.tokens, truncation=True, return_tensors="pt"
        )
        out = self.model(inputs.input_ids.to(self.model.device), output_hidden_states=True)
        if isinstance(self.model, T5EncoderModel):
            return out.last_hidden_state, None
        return out.hidden_states[-2], out.text_embeds


def load_text_encoder(
    folder: Path, name: str, tokenizer: str, kind: type, tokens: int, variant: str | None = None
) -> TextEncoder | None:
    """One of a pipeline's text encoders, None where it is absent. Raises ValueError for one without its tokenizer."""
    if not (folder / name).is_dir():
        return None
    if not (folder / tokenizer).is_dir():
        raise ValueError(f"{folder / name} has no tokenizer beside it ({tokenizer})")
    model = load_strict(kind, folder / name, variant, dtype="auto")
    return TextEncoder(model, AutoTokenizer.from_pretrained(folder / tokenizer), tokens)


class StableDiffusion3(nn.Module):
    """Text to image (`generate`). ``encoders`` are CLIP-L, CLIP-G and T5, None for one that is absent."""

    def __init__(
        self,
        detokenizer: MMDiTDetokenizer,
        encoders: Sequence[TextEncoder | None],
        scheduler: FlowMatchEulerDiscreteScheduler,
    ) -> None:
        super().__init__()
        self.detokenizer, self.scheduler = detokenizer, scheduler
        self.clip_l, self.clip_g, self.t5 = encoders

    @classmethod
    def from_pretrained(cls, folder: str | Path, variant: str | None = None) -> StableDiffusion3:
        """A diffusers folder of SD3 or SD3.5. Raises ValueError for parts that cannot be read or do not fit."""
        folder = Path(folder)
        mmdit, autoencoder, shift = load_pipeline(folder, variant=variant)
        detokenizer = MMDiTDetokenizer(None, mmdit, autoencoder, base_shift=shift)
        if not (folder / "scheduler").is_dir():
            raise ValueError(f"{folder} has no scheduler")
        encoders = [
            load_text_encoder(folder, "text_encoder", "tokenizer", CLIPTextModelWithProjection, CLIP_TOKENS, variant),
            load_text_encoder(
                folder, "text_encoder_2", "tokenizer_2", CLIPTextModelWithProjection, CLIP_TOKENS, variant
            ),
            load_text_encoder(folder, "text_encoder_3", "tokenizer_3", T5EncoderModel, T5_TOKENS, variant),
        ]
        scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(folder / "scheduler")
        return cls(detokenizer, encoders, scheduler).eval()

    def sigmas(self, steps: int) -> Tensor:
        """As the checkpoint's scheduler spaces them (not as `flow.inference_timesteps`)."""
        self.scheduler.set_timesteps(steps)
        return self.scheduler.sigmas

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Context (batch, 77 + 256, context_width) and pooled vectors (batch, pooled_width)."""
        config, batch = self.detokenizer.mmdit.config, len(prompts)
        parameter = next(self.detokenizer.mmdit.parameters())

        def zeros(*shape: int) -> Tensor:
            return parameter.new_zeros(batch, *shape)

        clip_outputs: list[Any] = [None if clip is None else clip(prompts) for clip in (self.clip_l, self.clip_g)]
        known = sum(pooled.shape[-1] for _, pooled in filter(None, clip_outputs))
        if clip_outputs.count(None) == 2:
            clip_outputs = [(zeros(CLIP_TOKENS, config.pooled_width), zeros(config.pooled_width))]
        else:  # the widths of the two add up to pooled_width
            left = config.pooled_width - known
            clip_outputs = [(zeros(CLIP_TOKENS, left), zeros(left)) if own is None else own for own in clip_outputs]
        states = torch.cat([own.to(parameter) for own, _ in clip_outputs], dim=-1)
        pooled = torch.cat([own.to(parameter) for _, own in clip_outputs], dim=-1)
        states = F.pad(states, (0, config.context_width - states.shape[-1]))
        long = zeros(T5_TOKENS, config.context_width) if self.t5 is None else self.t5(prompts)[0].to(parameter)
        return torch.cat([states, long], dim=1), pooled

    def condition(self, prompts: Sequence[str], negative_prompt: str = "") -> Condition:
        """The condition of the prompts, with that of ``negative_prompt`` as the negative one."""
        context, pooled = self.encode([*prompts, negative_prompt])
        mask = torch.ones(context.shape[:2], dtype=torch.bool, device=context.device)
        return Condition(context[:-1], mask[:-1], pooled[:-1], negative=(context[-1], pooled[-1]))

    def generate(
        self,
        prompt: str | Sequence[str],
        *,
        negative_prompt: str = "",
        height: int = 1024,
        width: int = 1024,
        num_inference_steps: int = DEFAULTS.num_inference_steps,
        guidance_scale: float = DEFAULTS.guidance_scale,
        seed: int = 0,
        callback: Callable[[int, int], None] | None = None,
    ) -> list[Image.Image]:
        """One image for each prompt. Raises ValueError for an empty prompt and for sizes or options that make no sense."""
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        if not prompts or not all(p.strip() for p in prompts):
            raise ValueError("the prompt is empty")
        options = DrawingOptions(num_inference_steps=num_inference_steps, guidance_scale=guidance_scale)
        self.detokenizer.check_size(height, width)
        drawing = self.detokenizer.begin(
            self.condition(prompts, negative_prompt),
            height,
            width,
            seeds=[(seed, i) for i in range(len(prompts))],
            options=options,
            times=self.sigmas(num_inference_steps),
        )
        drawn = self.detokenizer.run(drawing, callback)
        return [Image.fromarray(pixels.numpy()) for pixels in drawn]
