"""The de-tokenizer with an MM-DiT."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import flow, samplers
from .autoencoder import Autoencoder, to_pixels
from .condition import AdapterConfig, Condition, ConditioningAdapter
from .detokenizer import Detokenizer, Drawing
from .drawing_options import DrawingOptions
from .files import check_types, load_module, read_json, save_module, write_source
from .glyph_images import GlyphImageConfig, GlyphImages
from .glyphs import GlyphEncoder
from .guidance import Guidance
from .mmdit import MMDiT, Modulations
from .mmdit_config import MMDiTConfig


class MMDiTDetokenizer(Detokenizer):
    """Adapter, MM-DiT and autoencoder, and for words to be written an encoder and `GlyphImages`, where there are some.

    ``trained_tokens`` is the token count that the timestep shift is measured from, ``base_shift`` the shift there (3 for
    SD3).
    """

    adapter: ConditioningAdapter | None

    def __init__(
        self,
        adapter: ConditioningAdapter | None,
        mmdit: MMDiT,
        autoencoder: Autoencoder,
        trained_tokens: int = 0,
        base_shift: float = 1.0,
        glyphs: GlyphEncoder | None = None,
        glyph_images: GlyphImages | None = None,
    ) -> None:
        """Raises ValueError for glyphs that the adapter has no place for, or of another width, and for glyph images of other
        sizes than the MM-DiT's."""
        super().__init__()
        width, expected = glyphs.width if glyphs else 0, adapter.config.glyph_width if adapter else 0
        if width != expected:
            raise ValueError(f"glyphs of width {width}, the adapter takes {expected}")
        self.glyphs, self.adapter, self.mmdit, self.autoencoder = glyphs, adapter, mmdit, autoencoder
        self.glyph_images = glyph_images
        if glyph_images is not None:
            own = glyph_images.config
            sizes, expected_sizes = (own.patch, own.image_width), (self.size_multiple, mmdit.config.width)
            if sizes != expected_sizes:
                raise ValueError(
                    f"glyph images of patch and image_width {sizes}, the MM-DiT and the autoencoder take {expected_sizes}"
                )
        if trained_tokens < 0 or base_shift <= 0:
            raise ValueError(
                f"trained_tokens {trained_tokens} must not be negative, base_shift {base_shift} be above 0"
            )
        self.trained_tokens, self.base_shift = trained_tokens, base_shift

    @property
    def transformer(self) -> nn.Module:
        return self.mmdit

    @property
    def size_multiple(self) -> int:
        """Heights and widths in pixels must be multiples of this."""
        return self.autoencoder.downsample_factor * self.mmdit.config.patch_size

    @property
    def max_side(self) -> int | None:
        """The longest side in pixels that has a place in the position table; None where positions have no end."""
        config = self.mmdit.config
        return config.position_table * self.size_multiple if config.positions == "sincos" else None

    def condition(
        self,
        features: Tensor,
        prompt: Tensor | None,
        prompt_mask: Tensor | None,
        glyph_text: Sequence[Sequence[str]],
        text_boxes: Tensor | None = None,
    ) -> Condition:
        """``text_boxes`` (batch, 4) are `GlyphImages.layout`'s known boxes."""
        assert self.adapter is not None
        condition = self.adapter(features, prompt, prompt_mask, *(self.glyphs(glyph_text) if self.glyphs else ()))
        if self.glyph_images is None or not any(glyph_text):
            return condition
        return replace(condition, glyphs=self.glyph_images.layout(glyph_text, features, text_boxes))

    def place_glyphs(self, condition: Condition, height: int, width: int) -> Condition:
        """The condition of pictures of this size, in pixels, with the ``image_bias`` of its words."""
        if condition.glyphs is None:
            return condition
        assert self.glyph_images is not None
        return replace(condition, image_bias=self.glyph_images(condition.glyphs, height, width))

    def add_glyph_encoder(self, glyphs: GlyphEncoder) -> None:
        """A new source of context; what is drawn without words stays what it was."""
        old = self.adapter
        assert self.glyphs is None and old is not None
        self.adapter = ConditioningAdapter(replace(old.config, glyph_width=glyphs.width)).to(old.source_embed)
        state = self.adapter.state_dict() | old.state_dict()
        state["source_embed"] = torch.cat([old.source_embed, torch.zeros_like(old.source_embed[:1])])
        self.adapter.load_state_dict(state)
        self.glyphs = glyphs.to(old.source_embed)

    def add_glyph_images(
        self, layout_width: int, feature_tokens: int, capitals: bool = False, font: bytes = b""
    ) -> None:
        """Words in plain type, where a head of ``layout_width`` on ``feature_tokens`` image features has them stand; what is
        drawn stays what it was. ``capitals`` is `GlyphImageConfig`'s, ``font`` `load_font`'s."""
        assert self.glyph_images is None and self.adapter is not None
        sizes = GlyphImageConfig(
            self.adapter.config.feature_width,
            feature_tokens,
            layout_width,
            self.size_multiple,
            self.mmdit.config.width,
            capitals,
        )
        self.glyph_images = GlyphImages(sizes, font).to(self.mmdit.proj_out.weight)

    def timestep_shift(self, height: int, width: int) -> float:
        """The resolution shift α = base_shift · sqrt(m / n)."""
        tokens = (height // self.size_multiple) * (width // self.size_multiple)
        return self.base_shift * ((tokens / self.trained_tokens) ** 0.5 if self.trained_tokens else 1.0)

    @torch.no_grad()
    def encode_reference(self, image: Tensor, size: tuple[int, int]) -> Tensor:
        """8-bit pixels (height, width, 3) to latents (channels, h, w); the picture is first fitted to whole patches.

        It keeps its own size, whatever ``size`` the drawing has.
        """
        parameter = next(self.autoencoder.parameters())
        pixels = to_pixels(image[None]).to(parameter.device, parameter.dtype)
        fitted = [
            max(self.size_multiple, round(n / self.size_multiple) * self.size_multiple) for n in pixels.shape[-2:]
        ]
        if fitted != list(pixels.shape[-2:]):
            pixels = nn.functional.interpolate(pixels.float(), fitted, mode="bilinear", antialias=True).to(
                parameter.dtype
            )
        return self.autoencoder.encode(pixels)[0]

    @torch.no_grad()
    def begin(
        self,
        condition: Condition,
        height: int,
        width: int,
        *,
        seeds: Sequence[tuple[int, int]],
        options: DrawingOptions,
        times: Tensor | None = None,
    ) -> Drawing:
        """``times`` fall from 1 to 0 and replace the ``num_inference_steps`` that the size's shift would give."""
        self.check_request(condition, height, width, seeds)
        if times is None:
            times = flow.inference_timesteps(options.num_inference_steps, self.timestep_shift(height, width))
        x = self.noise(seeds, height, width)
        dtype = next(self.mmdit.parameters()).dtype
        placed = self.place_glyphs(condition, height, width)
        guided = GuidedVelocity(self.mmdit, placed, options.guidance, times.to(x.device), dtype)
        begin = partial(samplers.sampler(options.sampler), x, times)
        return Drawing(begin, guided, len(times) - 1, (tuple(x.shape[1:]), *guided.shape))

    @torch.no_grad()
    def advance(self, drawings: Sequence[Drawing]) -> None:
        velocities = guided_velocities([(d.guided, d.x, d.t) for d in drawings])
        for drawing, velocity in zip(drawings, velocities, strict=True):
            drawing.send(velocity, drawing.x - drawing.t * velocity)

    def save_pretrained(self, folder: str | Path, source: str | None = None) -> None:
        """``source``, a folder or hub id of an SD3, is named in place of the MM-DiT's and the autoencoder's weights."""
        folder = Path(folder)
        if self.glyphs is not None:
            self.glyphs.encoder.save_pretrained(folder / "glyphs")
        if self.glyph_images is not None:
            self.glyph_images.save_pretrained(folder / "glyph_images")
        assert self.adapter is not None
        save_module(self.adapter, folder / "adapter")
        if source is None:
            save_module(self.mmdit, folder / "mmdit")
            self.autoencoder.save_pretrained(folder / "vae")
        else:
            write_source(folder / "mmdit", source, max_references=self.mmdit.config.max_references)
            write_source(folder / "vae", source)
        (folder / "scheduler").mkdir(exist_ok=True)
        scheduler = {"trained_tokens": self.trained_tokens, "base_shift": self.base_shift}
        (folder / "scheduler/config.json").write_text(json.dumps(scheduler) + "\n", encoding="utf-8")

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        components: tuple[MMDiT, Autoencoder] | None = None,
        variant: str | None = None,
    ) -> MMDiTDetokenizer:
        """``components`` is in place of the folder's own MM-DiT and autoencoder, where it names another's (`save_pretrained`).

        Raises ValueError for unknown config keys and for weights that do not fit.
        """
        folder = Path(folder)
        adapter = load_module(ConditioningAdapter, AdapterConfig, folder / "adapter", variant)
        if components is None:
            mmdit = load_module(MMDiT, MMDiTConfig, folder / "mmdit", variant)
            components = mmdit, Autoencoder.from_pretrained(folder / "vae", variant)
        glyphs = GlyphEncoder.from_pretrained(folder / "glyphs", variant) if (folder / "glyphs").exists() else None
        glyph_images = None
        if (folder / "glyph_images").exists():
            glyph_images = GlyphImages.from_pretrained(folder / "glyph_images", variant)
        path = folder / "scheduler/config.json"
        scheduler = read_json(path, ("trained_tokens", "base_shift"))
        check_types(scheduler, cls.__init__, path)
        return cls(adapter, *components, **scheduler, glyphs=glyphs, glyph_images=glyph_images)


class GuidedVelocity:
    """Velocity of all guidance passes in one batch; conditions and modulations are prepared once for all steps."""

    def __init__(
        self, mmdit: MMDiT, condition: Condition, guidance: Guidance, times: Tensor, dtype: torch.dtype
    ) -> None:
        self.mmdit, self.guidance, self.dtype = mmdit, guidance, dtype
        self.step_of = {t: step for step, t in enumerate(times.tolist())}
        self.has_references, self.batch = any(condition.references), condition.batch
        # in the order of `Guidance.passes`
        plain = condition.without_context()
        passes = max((guidance.passes(t, self.has_references) for t in times.tolist()), key=len)
        conditions = [condition, plain, plain.without_references()][: len(passes)]
        # (steps, passes · batch): the pooled vectors differ by pass, so each pass has its own modulations
        pooled = torch.cat([form.pooled for form in conditions]).to(dtype)
        self.modulations = mmdit.modulations(times.float()[:, None].expand(-1, pooled.shape[0]), pooled)
        self.context = torch.cat([form.context for form in conditions]).to(dtype)
        self.mask = torch.cat([form.context_mask for form in conditions])
        self.is_whole = torch.stack([form.context_mask.all() for form in conditions]).tolist()
        """Whether a pass has no masked context: once, as every look at a mask waits for the device"""
        rows = [row for form in conditions for row in (form.references or [[]] * form.batch)]
        self.references = mmdit.pack_references(rows) if self.has_references else None
        biases = [form.image_bias for form in conditions if form.image_bias is not None]
        self.image_bias = torch.cat(biases).to(dtype) if biases else None

    @property
    def shape(self) -> tuple[int, ...]:
        """Tokens of context and references: drawings of the same shape can run as one batch."""
        return self.context.shape[1], self.references[0].shape[1] if self.references else 0

    def inputs(self, x: Tensor, t: float) -> tuple[Tensor, Tensor, Tensor | None, Any, Tensor | None, Modulations]:
        """Latents, context, its mask, references, image bias and modulations of all passes at time ``t``, (passes · batch, …)
        each."""
        passes = len(self.guidance.passes(t, self.has_references))
        rows = slice(0, passes * self.batch)
        mask = None if all(self.is_whole[:passes]) else self.mask[rows]
        references = None if self.references is None else tuple(part[rows] for part in self.references)
        modulations = self.modulations.at(self.step_of[t], rows)
        bias = None if self.image_bias is None else self.image_bias[rows]
        return x.to(self.dtype).repeat(passes, 1, 1, 1), self.context[rows], mask, references, bias, modulations

    def combine(self, out: Tensor, x: Tensor, t: float) -> Tensor:
        """The guided velocity of x's shape and precision, from those of the passes (passes · batch, channels, h, w)."""
        names = self.guidance.passes(t, self.has_references)
        return self.guidance.combine(dict(zip(names, out.to(x.dtype).chunk(len(names)), strict=True)))

    def __call__(self, x: Tensor, t: float) -> Tensor:
        return guided_velocities([(self, x, t)])[0]


def guided_velocities(drawings: Sequence[tuple[GuidedVelocity, Tensor, float]]) -> list[Tensor]:
    """The velocities of drawings of one shape, each at its own time, by one forward of the MM-DiT."""
    inputs = [guided.inputs(x, t) for guided, x, t in drawings]
    latents, context, mask, references, bias, modulations = inputs[0] if len(inputs) == 1 else joint_inputs(inputs)
    out = drawings[0][0].mmdit(
        latents,
        None,
        context,
        None,
        context_mask=mask,
        references=references,
        image_bias=bias,
        modulations=modulations,
    )
    parts = out.split([len(own[0]) for own in inputs])
    return [guided.combine(part, x, t) for (guided, x, t), part in zip(drawings, parts, strict=True)]


def joint_inputs(
    inputs: Sequence[tuple[Tensor, Tensor, Tensor | None, Any, Tensor | None, Modulations]],
) -> tuple[Any, ...]:
    """`GuidedVelocity.inputs` of several drawings as those of one."""
    latents, context, masks, references, biases, modulations = zip(*inputs, strict=True)
    mask = None
    if any(own is not None for own in masks):
        full = [c.new_ones(c.shape[:2], dtype=torch.bool) for c in context]
        mask = torch.cat([other if own is None else own for own, other in zip(masks, full, strict=True)])
    packed = None if references[0] is None else tuple(map(torch.cat, zip(*references, strict=True)))
    bias = None
    some = next((own for own in biases if own is not None), None)
    if some is not None:
        bias = torch.cat(
            [some.new_zeros(len(x), *some.shape[1:]) if b is None else b for x, b in zip(latents, biases, strict=True)]
        )
    return torch.cat(latents), torch.cat(context), mask, packed, bias, Modulations.cat(modulations)
