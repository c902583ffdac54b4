"""SEED-X's de-tokenizers: SDXL's UNet steered by image features, with or without a picture to start from.

Ge et al. 2024 (SEED-X), arXiv:2404.14396; Podell et al. 2023 (SDXL), arXiv:2307.01952. UNet, autoencoder and scheduler are
diffusers'. A UNet of twice the latents' channels takes the newest reference beside the noise, as InstructPix2Pix does.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from diffusers import EulerDiscreteScheduler, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor, nn

from ...detokenizer import samplers
from ...detokenizer.autoencoder import Autoencoder, to_bytes, to_pixels
from ...detokenizer.condition import Condition
from ...detokenizer.detokenizer import Progress
from ...detokenizer.files import filled, read_json, stored_dtype, whole
from ...detokenizer.guidance import Guidance
from ...resamplers import PerceiverResampler


@dataclass
class SDXLAdapterConfig:
    feature_width: int = 4096
    feature_tokens: int = 64
    num_tokens: int = 64
    width: int = 1024
    depth: int = 4
    heads: int = 16
    head_width: int = 64
    context_widths: tuple[int, int] = (768, 1280)
    """Of SDXL's two text encoders; the second one's is the pooled vector's too."""
    prompt_width: int = 0
    """No second source of context: always 0"""

    def __post_init__(self) -> None:
        first, second = self.context_widths  # a list where it comes from JSON
        self.context_widths = (first, second)
        if self.prompt_width:
            raise ValueError("an SDXL de-tokenizer reads image features only: prompt_width must be 0")


class SDXLAdapter(nn.Module):
    """Image features to a `Condition`; guidance pushes away from what a black picture's features would draw."""

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


class SDXLDetokenizer(nn.Module):
    """What `Detokenizer` is with an MM-DiT: the same `draw`, references and folder, another painter."""

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
        self, features: Tensor, prompt: Tensor | None, prompt_mask: Tensor | None, words: Sequence[Sequence[str]]
    ) -> Condition:
        """As `Detokenizer.condition`; what words are to be written goes by the features alone."""
        return self.adapter(features, prompt, prompt_mask)

    @property
    def painter(self) -> nn.Module:
        return self.unet

    @property
    def multiple(self) -> int:
        """Heights and widths in pixels must be multiples of this."""
        return self.autoencoder.factor * 2 ** (len(self.unet.config.down_block_types) - 1)

    def check_size(self, height: int, width: int) -> None:
        """Raises ValueError for a size that cannot be drawn, naming those that can."""
        step = self.multiple
        if min(height, width) < step or height % step or width % step:
            raise ValueError(f"cannot draw {height} x {width} pixels: height and width must be multiples of {step}")

    @torch.no_grad()
    def encode_reference(self, image: Tensor, size: tuple[int, int]) -> Tensor:
        """8-bit pixels (height, width, 3), stretched to the drawing's ``size``, to latents (channels, h, w).

        They are not brought to unit scale: the released UNet was trained on the autoencoder's own.
        """
        parameter = next(self.autoencoder.parameters())
        pixels = to_pixels(image[None]).to(parameter.device)
        if tuple(pixels.shape[-2:]) != tuple(size):
            pixels = nn.functional.interpolate(pixels, size, mode="bicubic", antialias=True).clamp(-1, 1)
        return self.autoencoder.moments(pixels.to(parameter.dtype))[0][0]

    @torch.no_grad()
    def draw(
        self,
        condition: Condition,
        height: int,
        width: int,
        *,
        seeds: list[tuple[int, int]],
        num_inference_steps: int = 50,
        guidance_scale: float = 7.5,
        image_guidance_scale: float = 1.0,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        sampler: str = "euler",
        callback: Progress | None = None,
    ) -> Tensor:
        """8-bit pictures (batch, height, width, 3), as `Detokenizer.draw`; ``sampler`` is the checkpoint's, Euler.

        Raises ValueError for sizes, steps, scales or samplers that make no sense here.
        """
        self.check_size(height, width)
        if len(seeds) != condition.batch:
            raise ValueError(f"{len(seeds)} seeds for {condition.batch} pictures")
        if num_inference_steps < 1:
            raise ValueError(f"num_inference_steps is {num_inference_steps}; it must be at least 1")
        if sampler != "euler":
            raise ValueError(f"an SDXL de-tokenizer draws with its own Euler scheduler, not with {sampler!r}")
        guidance = Guidance(guidance_scale, image_guidance_scale, guidance_interval)
        factor = self.autoencoder.factor
        shape = (self.autoencoder.channels, height // factor, width // factor)
        noise = torch.stack([samplers.noise_like(shape, seed, index) for seed, index in seeds])
        latents = self.denoise(noise, condition, guidance, num_inference_steps, callback)
        return to_bytes(self.autoencoder.decode(latents.to(next(self.autoencoder.parameters()).dtype)))

    @torch.no_grad()
    def denoise(
        self, noise: Tensor, condition: Condition, guidance: Guidance, steps: int, callback: Progress | None = None
    ) -> Tensor:
        """Noise (batch, channels, h, w) to latents of the same shape."""
        parameter = next(self.unet.parameters())
        scheduler = EulerDiscreteScheduler.from_config(self.scheduler.config)  # it counts its steps: one a drawing
        scheduler.set_timesteps(steps, device=parameter.device)
        x = noise.to(parameter.device) * scheduler.init_noise_sigma
        predict = GuidedNoise(self, condition, guidance, tuple(noise.shape[1:]))
        for step, t in enumerate(scheduler.timesteps):
            predicted = predict(scheduler.scale_model_input(x, t), t, t.item() / scheduler.config.num_train_timesteps)
            x = scheduler.step(predicted, t, x).prev_sample
            if callback is not None:
                callback(step + 1, steps)
        return x

    def save_pretrained(self, folder: str | Path) -> None:
        folder = Path(folder)
        (folder / "adapter").mkdir(parents=True, exist_ok=True)
        (folder / "adapter/config.json").write_text(json.dumps(asdict(self.adapter.config), indent=1) + "\n")
        weights = {k: v.contiguous() for k, v in self.adapter.state_dict().items()}
        save_file(weights, folder / "adapter/model.safetensors")
        self.unet.save_pretrained(folder / "unet")
        self.autoencoder.save_pretrained(folder / "vae")
        self.scheduler.save_pretrained(folder / "scheduler")

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> SDXLDetokenizer:
        """Raises ValueError for unknown config keys and for weights that do not fit."""
        folder = Path(folder)
        adapter = filled(SDXLAdapter, SDXLAdapterConfig, folder / "adapter")
        unet = whole(UNet2DConditionModel, folder / "unet", torch_dtype=stored_dtype(folder / "unet"))
        return cls(adapter, unet, Autoencoder.from_pretrained(folder / "vae"), scheduler_of(folder / "scheduler"))


def scheduler_of(folder: Path) -> EulerDiscreteScheduler:
    name = read_json(folder / "scheduler_config.json").get("_class_name")
    if name != "EulerDiscreteScheduler":
        raise ValueError(f"{folder}: a scheduler of class {name!r}; an SDXL de-tokenizer takes EulerDiscreteScheduler")
    return EulerDiscreteScheduler.from_pretrained(folder)


class GuidedNoise:
    """The noise that all guidance passes, run as one batch, agree on."""

    def __init__(
        self, detokenizer: SDXLDetokenizer, condition: Condition, guidance: Guidance, shape: tuple[int, ...]
    ) -> None:
        self.unet, self.guidance = detokenizer.unet, guidance
        parameter = next(self.unet.parameters())
        self.dtype, factor = parameter.dtype, detokenizer.autoencoder.factor
        self.has_references = detokenizer.takes_reference and any(condition.references)
        bare = condition.without_context()
        self.forms = {"full": condition, "no_context": bare, "nothing": bare}
        size = (shape[1] * factor, shape[2] * factor)
        # original size, crop and target size: a whole picture of this size
        self.time_ids = torch.tensor([[*size, 0, 0, *size]], device=parameter.device, dtype=self.dtype)
        self.reference = torch.zeros(0)
        if detokenizer.takes_reference:
            rows = condition.references or [[]] * condition.batch
            blank = torch.zeros(shape, device=parameter.device)
            self.reference = torch.stack([row[0].to(blank) if row else blank for row in rows])

    def __call__(self, x: Tensor, timestep: Tensor, t: float) -> Tensor:
        names = self.guidance.passes(t, self.has_references)
        forms = [self.forms[name] for name in names]
        inputs = x.repeat(len(names), 1, 1, 1)
        if len(self.reference):
            beside = [torch.zeros_like(self.reference) if name == "nothing" else self.reference for name in names]
            inputs = torch.cat([inputs, torch.cat(beside)], dim=1)
        noise = self.unet(
            inputs.to(self.dtype),
            timestep,
            torch.cat([f.context for f in forms]).to(self.dtype),
            added_cond_kwargs={
                "text_embeds": torch.cat([f.pooled for f in forms]).to(self.dtype),
                "time_ids": self.time_ids.expand(len(inputs), -1),
            },
        ).sample
        return self.guidance.combine(dict(zip(names, noise.to(x.dtype).chunk(len(names)), strict=True)))
