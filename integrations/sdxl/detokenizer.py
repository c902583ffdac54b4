"""SEED-X's de-tokenizers: SDXL's UNet conditioned on image features, with or without a reference image.

Ge et al. 2024 (SEED-X), arXiv:2404.14396; Podell et al. 2023 (SDXL), arXiv:2307.01952. UNet, autoencoder and scheduler are
diffusers'. A UNet of twice the latents' channels takes the newest reference beside the noise, as InstructPix2Pix does.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from diffusers import EulerDiscreteScheduler, UNet2DConditionModel
from torch import Tensor, nn

from ...detokenizer.autoencoder import Autoencoder, to_pixels
from ...detokenizer.condition import Condition
from ...detokenizer.detokenizer import Detokenizer, Drawing
from ...detokenizer.drawing_options import DrawingOptions
from ...detokenizer.files import load_module, load_strict, read_json, save_module, stored_dtype
from ...detokenizer.guidance import Guidance
from ...detokenizer.samplers import Steps
from ...resamplers import PerceiverResampler


@dataclass
class SDXLAdapterConfig:
    """Sizes of an `SDXLAdapter`. Raises ValueError for a prompt width."""

    feature_width: int = 4096
    feature_tokens: int = 64
    num_tokens: int = 64
    width: int = 1024
    depth: int = 4
    heads: int = 16
    head_width: int = 64
    context_widths: tuple[int, int] = (768, 1280)
    """Widths of SDXL's two text encoders; the second is also that of the pooled vector."""
    prompt_width: int = 0
    """Always 0: there is no second context source."""

    def __post_init__(self) -> None:
        first, second = self.context_widths  # a list where it comes from JSON
        self.context_widths = (first, second)
        if self.prompt_width:
            raise ValueError("an SDXL de-tokenizer reads image features only: prompt_width must be 0")


class SDXLAdapter(nn.Module):
    """Image features to a `Condition`, whose negative is that of a black image's features."""

    negative_features: Tensor

    def __init__(self, config: SDXLAdapterConfig) -> None:
        super().__init__()
        self.config = config
        self.resampler = PerceiverResampler(
            config.feature_width,
            config.context_widths,
            config.num_tokens,
            width=config.width,
            depth=config.depth,
            heads=config.heads,
            head_width=config.head_width,
        )
        self.register_buffer("negative_features", torch.zeros(config.feature_tokens, config.feature_width))

    def forward(self, features: Tensor, prompt: Tensor | None = None, prompt_mask: Tensor | None = None) -> Condition:
        """features (batch, tokens, feature_width). Raises ValueError when the prompt's states are given too."""
        if prompt is not None:
            raise ValueError("an SDXL de-tokenizer has no place for the prompt's hidden states")
        context, pooled = self.resampler(torch.cat([features, self.negative_features[None].to(features)]))
        mask = torch.ones(context.shape[:2], dtype=torch.bool, device=context.device)[:-1]
        return Condition(context[:-1], mask, pooled[:-1], negative=(context[-1], pooled[-1]))


class SDXLDetokenizer(Detokenizer):
    """SDXL's UNet in the place of an MM-DiT."""

    adapter: SDXLAdapter
    stretches_references = True

    def __init__(
        self,
        adapter: SDXLAdapter,
        unet: UNet2DConditionModel,
        autoencoder: Autoencoder,
        scheduler: EulerDiscreteScheduler,
    ) -> None:
        super().__init__()
        channels, own = unet.config.in_channels, autoencoder.channels
        if channels not in (own, 2 * own):
            raise ValueError(f"a UNet of {channels} channels for latents of {own}: it must take {own} or {2 * own}")
        self.adapter, self.unet, self.autoencoder, self.scheduler = adapter, unet, autoencoder, scheduler
        self.takes_reference = channels == 2 * own

    def condition(
        self, features: Tensor, prompt: Tensor | None, prompt_mask: Tensor | None, glyph_text: Sequence[Sequence[str]]
    ) -> Condition:
        """Words that are to be written go by the features alone."""
        return self.adapter(features, prompt, prompt_mask)

    @property
    def transformer(self) -> nn.Module:
        """The network that predicts the noise, here a UNet."""
        return self.unet

    @property
    def size_multiple(self) -> int:
        """Heights and widths in pixels must be multiples of this."""
        return self.autoencoder.downsample_factor * 2 ** (len(self.unet.config.down_block_types) - 1)

    @torch.no_grad()
    def encode_reference(self, image: Tensor, size: tuple[int, int]) -> Tensor:
        """8-bit pixels (height, width, 3), stretched to the drawing's ``size``, to latents (channels, h, w).

        They are not scaled to unit variance: the released UNet was trained with unscaled reference latents.
        """
        parameter = next(self.autoencoder.parameters())
        pixels = to_pixels(image[None]).to(parameter.device)
        if tuple(pixels.shape[-2:]) != tuple(size):
            pixels = nn.functional.interpolate(pixels, size, mode="bicubic", antialias=True).clamp(-1, 1)
        return self.autoencoder.moments(pixels.to(parameter.dtype))[0][0]

    @torch.no_grad()
    def begin(
        self,
        condition: Condition,
        height: int,
        width: int,
        *,
        seeds: Sequence[tuple[int, int]],
        options: DrawingOptions,
    ) -> Drawing:
        """The sampler is the checkpoint's own Euler; another one is refused with a ValueError."""
        self.check_request(condition, height, width, seeds)
        if options.sampler != "euler":
            raise ValueError(f"an SDXL de-tokenizer draws with its own Euler scheduler, not with {options.sampler!r}")
        return self.begin_at(self.noise(seeds, height, width), condition, options.guidance, options.num_inference_steps)

    @torch.no_grad()
    def begin_at(self, noise: Tensor, condition: Condition, guidance: Guidance, steps: int) -> Drawing:
        """A drawing that starts from ``noise`` (batch, channels, h, w)."""
        # a scheduler counts its steps, so each drawing has its own
        scheduler = EulerDiscreteScheduler.from_config(self.scheduler.config)
        scheduler.set_timesteps(steps, device=next(self.unet.parameters()).device)
        guided = GuidedNoise(self, condition, guidance, tuple(noise.shape[1:]), scheduler)
        shape = (tuple(noise.shape[1:]), condition.context.shape[1])
        return Drawing(partial(scheduler_steps, scheduler, noise), guided, steps, shape)

    @torch.no_grad()
    def advance(self, drawings: Sequence[Drawing]) -> None:
        inputs = [d.guided.inputs(d.x, d.t) for d in drawings]
        latents, timesteps, context, pooled, time_ids = (torch.cat(parts) for parts in zip(*inputs, strict=True))
        conditions = {"text_embeds": pooled, "time_ids": time_ids}
        noise = self.unet(latents, timesteps, context, added_cond_kwargs=conditions).sample
        for drawing, part in zip(drawings, noise.split([len(own[0]) for own in inputs]), strict=True):
            predicted = drawing.guided.combine(part, drawing.x, drawing.t)
            drawing.send(predicted, drawing.guided.estimate(predicted, drawing.x, drawing.t))

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes what `from_pretrained` reads."""
        folder = Path(folder)
        save_module(self.adapter, folder / "adapter")
        self.unet.save_pretrained(folder / "unet")
        self.autoencoder.save_pretrained(folder / "vae")
        self.scheduler.save_pretrained(folder / "scheduler")

    @classmethod
    def from_pretrained(cls, folder: str | Path, variant: str | None = None) -> SDXLDetokenizer:
        """Raises ValueError for unknown config keys and for weights that do not fit."""
        folder = Path(folder)
        adapter = load_module(SDXLAdapter, SDXLAdapterConfig, folder / "adapter", variant)
        dtype = stored_dtype(folder / "unet", variant)
        unet = load_strict(UNet2DConditionModel, folder / "unet", variant, torch_dtype=dtype)
        autoencoder = Autoencoder.from_pretrained(folder / "vae", variant)
        return cls(adapter, unet, autoencoder, load_scheduler(folder / "scheduler"))


def load_scheduler(folder: Path) -> EulerDiscreteScheduler:
    """Raises ValueError for a folder with a scheduler of another class."""
    name = read_json(folder / "scheduler_config.json").get("_class_name")
    if name != "EulerDiscreteScheduler":
        raise ValueError(f"{folder}: a scheduler of class {name!r}; an SDXL de-tokenizer takes EulerDiscreteScheduler")
    return EulerDiscreteScheduler.from_pretrained(folder)


def scheduler_steps(scheduler: EulerDiscreteScheduler, noise: Tensor) -> Steps:
    """diffusers' scheduler as a sampler (`detokenizer/samplers.py`): what it yields is scaled for the network, and it is sent
    the network's noise."""
    scheduler = copy.copy(scheduler)  # it counts its steps: an interrupted drawing begins again with one that has not
    x = noise.to(scheduler.timesteps.device) * scheduler.init_noise_sigma
    # as numbers once: each look at a tensor waits for the device
    for timestep, number in zip(scheduler.timesteps, scheduler.timesteps.tolist(), strict=True):
        predicted = yield scheduler.scale_model_input(x, timestep), number / scheduler.config.num_train_timesteps
        x = scheduler.step(predicted, timestep, x).prev_sample
    return x


class GuidedNoise:
    """The guided noise prediction; all guidance passes run as one batch."""

    def __init__(
        self,
        detokenizer: SDXLDetokenizer,
        condition: Condition,
        guidance: Guidance,
        shape: tuple[int, ...],
        scheduler: EulerDiscreteScheduler,
    ) -> None:
        self.guidance = guidance
        parameter = next(detokenizer.unet.parameters())
        self.dtype = parameter.dtype
        self.timesteps, self.sigmas = scheduler.timesteps, scheduler.sigmas.tolist()
        self.prediction_type = scheduler.config.prediction_type
        times = [timestep / scheduler.config.num_train_timesteps for timestep in scheduler.timesteps.tolist()]
        self.step_of = {t: step for step, t in enumerate(times)}
        self.has_references = detokenizer.takes_reference and any(condition.references)
        without_context = condition.without_context()
        self.conditions = {"full": condition, "no_context": without_context, "nothing": without_context}
        size = [side * detokenizer.autoencoder.downsample_factor for side in shape[1:]]
        # original size, crop and target size: an image of this size that is not cropped
        self.time_ids = torch.tensor([[*size, 0, 0, *size]], device=parameter.device, dtype=self.dtype)
        self.reference = torch.zeros(0)
        if detokenizer.takes_reference:
            rows = condition.references or [[]] * condition.batch
            blank = torch.zeros(shape, device=parameter.device, dtype=torch.float32)
            self.reference = torch.stack([row[0].to(blank) if row else blank for row in rows])

    def inputs(self, x: Tensor, t: float) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Latents, timesteps, context, pooled vectors and sizes of all passes at time ``t``, (passes · batch, …) each."""
        names = self.guidance.passes(t, self.has_references)
        conditions = [self.conditions[name] for name in names]
        latents = x.repeat(len(names), 1, 1, 1)
        if len(self.reference):
            beside = [torch.zeros_like(self.reference) if name == "nothing" else self.reference for name in names]
            latents = torch.cat([latents, torch.cat(beside)], dim=1)
        return (
            latents.to(self.dtype),
            self.timesteps[self.step_of[t]].expand(len(latents)),
            torch.cat([f.context for f in conditions]).to(self.dtype),
            torch.cat([f.pooled for f in conditions]).to(self.dtype),
            self.time_ids.expand(len(latents), -1),
        )

    def combine(self, noise: Tensor, x: Tensor, t: float) -> Tensor:
        """The guided noise, of x's shape and precision, from that of the passes (passes · batch, channels, h, w)."""
        names = self.guidance.passes(t, self.has_references)
        return self.guidance.combine(dict(zip(names, noise.to(x.dtype).chunk(len(names)), strict=True)))

    def estimate(self, predicted: Tensor, x: Tensor, t: float) -> Tensor:
        """The latents at the end that follow from what was predicted of ``x``, which is scaled for the network."""
        sigma = self.sigmas[self.step_of[t]]
        scale = (sigma**2 + 1) ** 0.5
        if self.prediction_type == "v_prediction":
            return (x - sigma * predicted) / scale
        assert self.prediction_type == "epsilon", self.prediction_type
        return scale * x - sigma * predicted
