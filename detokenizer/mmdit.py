"""MM-DiT: two token streams with separate weights and a joint attention (Stable Diffusion 3, arXiv:2403.03206).

The image stream holds the noisy latents and, after them, clean latents of reference images; the context stream holds the
condition. With ``adaln="full"`` and sine-cosine positions this equals diffusers' `SD3Transformer2DModel`
(`integrations/sd3`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..resamplers.attention import attention, qk_norms
from .mmdit_config import MMDiTConfig
from .mmdit_positions import apply_rotary, centred_grid, rotary_angles, sincos_table


def timestep_embedding(t: Tensor, width: int = 256) -> Tensor:
    """(batch,) in [0, 1] to (batch, width): cosines, then sines, of 1000 · t."""
    places = torch.arange(width // 2, device=t.device, dtype=torch.float32)
    frequencies = torch.exp(-math.log(10000) * places / (width // 2))
    angles = 1000.0 * t.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """AdaLN: ``x · (1 + scale) + shift``."""
    return torch.addcmul(shift, x, 1 + scale)


class GELU(nn.GELU):
    """The tanh approximation (arXiv:1606.08415). Compiled it is written as x · σ(2 √(2/π) (x + 0.044715 x³)), the same
    function, because tanh takes three times as long as the exponential on a CPU, as long as the matrix product before."""

    def __init__(self) -> None:
        super().__init__(approximate="tanh")

    def forward(self, x: Tensor) -> Tensor:
        if not torch.compiler.is_compiling():
            return super().forward(x)
        return x * torch.sigmoid(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))


class Stream(nn.Module):
    """Modulation, projections and feed-forward of one stream in a block."""

    def __init__(self, config: MMDiTConfig, chunks: int, last: bool) -> None:
        super().__init__()
        width = config.width
        self.heads, self.last, self.width = config.heads, last, width
        self.modulation = nn.Linear(config.adaln_rank if config.adaln == "low_rank" else width, chunks * width)
        self.qkv = nn.Linear(width, 3 * width)
        self.norm_q, self.norm_k = qk_norms(width // config.heads, config.qk_norm)
        if not last:
            hidden = round(config.mlp_ratio * width)
            self.out = nn.Linear(width, width)
            self.mlp = nn.Sequential(nn.Linear(width, hidden), GELU(), nn.Linear(hidden, width))

    def norm(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, (self.width,), eps=1e-6)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.norm_q(q), self.norm_k(k), v

    def finish(
        self, x: Tensor, attended: Tensor, gate: Tensor, shift: Tensor, scale: Tensor, mlp_gate: Tensor
    ) -> Tensor:
        x = torch.addcmul(x, gate, self.out(attended))
        return torch.addcmul(x, mlp_gate, self.mlp(modulate(self.norm(x), shift, scale)))


class SelfAttention(nn.Module):
    """The second attention of a dual block."""

    def __init__(self, config: MMDiTConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.norm_q, self.norm_k = qk_norms(config.width // config.heads, config.qk_norm)
        self.out = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.out(attention(self.norm_q(q), self.norm_k(k), v, mask).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """One joint block. In the last one the context stream takes part in the attention, but has no output."""

    called_outside = ("image.modulation", "context.modulation")
    """Modules that `MMDiT.modulations` calls outside the block's forward, which sharding has to wrap separately."""

    def __init__(self, config: MMDiTConfig, dual: bool, last: bool) -> None:
        super().__init__()
        self.image = Stream(config, 9 if dual else 6, last=False)
        self.context = Stream(config, 2 if last else 6, last=last)
        self.dual = SelfAttention(config) if dual else None

    def forward(
        self,
        x: Tensor,
        context: Tensor,
        image_mods: Tensor,
        context_mods: Tensor,
        rotary: Tensor | None,
        mask: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """``x`` (batch, image tokens, width), ``context`` (batch, context tokens, width), mods (batch, 1, chunks · width)."""
        mods = image_mods.chunk(9 if self.dual is not None else 6, dim=-1)
        normed = self.image.norm(x)
        if self.context.last:
            context_scale, context_shift = context_mods.chunk(2, dim=-1)
        else:
            context_shift, context_scale, *context_rest = context_mods.chunk(6, dim=-1)
        q, k, v = self.image.project(modulate(normed, mods[0], mods[1]))
        if rotary is not None:
            q, k = apply_rotary(q, rotary), apply_rotary(k, rotary)
        cq, ck, cv = self.context.project(modulate(self.context.norm(context), context_shift, context_scale))
        joint = attention(torch.cat([q, cq], 2), torch.cat([k, ck], 2), torch.cat([v, cv], 2), mask)
        joint = joint.transpose(1, 2).flatten(2)
        # contiguous: with a slice along the tokens, a linear layer would copy its weights for each row
        image_part, context_part = (part.contiguous() for part in joint.split([x.shape[1], context.shape[1]], dim=1))
        if self.dual is not None:
            own_mask = None if mask is None else mask[:, : x.shape[1]]
            x = torch.addcmul(x, mods[8], self.dual(modulate(normed, mods[6], mods[7]), own_mask))
        x = self.image.finish(x, image_part, mods[2], mods[3], mods[4], mods[5])
        if not self.context.last:
            context = self.context.finish(context, context_part, *context_rest)
        return x, context


@dataclass
class Modulations:
    """What depends on timestep and pooled vector alone: a tensor (..., batch, 1, chunks · width) for each block and stream."""

    blocks: list[tuple[Tensor, Tensor]]
    out: Tensor

    def at(self, step: int, rows: slice) -> Modulations:
        """From modulations of (steps, batch): those of one step and these rows."""
        return Modulations([(a[step, rows], b[step, rows]) for a, b in self.blocks], self.out[step, rows])

    @staticmethod
    def cat(parts: Sequence[Modulations]) -> Modulations:
        """The rows of all parts, each (batch, 1, chunks · width)."""
        if len(parts) == 1:
            return parts[0]
        blocks = zip(*(part.blocks for part in parts), strict=True)
        return Modulations(
            [(torch.cat([a for a, _ in pairs]), torch.cat([b for _, b in pairs])) for pairs in blocks],
            torch.cat([part.out for part in parts]),
        )


class MMDiT(nn.Module):
    """Predicts the velocity of noisy latents (`forward`)."""

    def __init__(self, config: MMDiTConfig) -> None:
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False
        width, patch = config.width, config.patch_size
        self.patch_embed = nn.Linear(config.latent_channels * patch * patch, width)
        self.time_embed = nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))
        self.pooled_embed = nn.Sequential(nn.Linear(config.pooled_width, width), nn.SiLU(), nn.Linear(width, width))
        self.context_embed = nn.Linear(config.context_width, width)
        low_rank = config.adaln == "low_rank"
        self.adaln_in = nn.Linear(width, config.adaln_rank) if low_rank else nn.Identity()
        self.blocks: Any = nn.ModuleList(  # of `Block`, which torch's types do not tell
            Block(config, dual=i in config.dual_attention_blocks, last=i == config.depth - 1)
            for i in range(config.depth)
        )
        self.modulation_out = nn.Linear(config.adaln_rank if low_rank else width, 2 * width)
        self.proj_out = nn.Linear(width, patch * patch * config.latent_channels)
        # zero at first, so that the order of references has no effect before it is trained
        self.reference_embed = nn.Parameter(torch.zeros(config.max_references, width))
        self.initialize_weights()

    def resize_references(self, references: int) -> None:
        """Makes room for this many references; the embeddings of those that it had stay."""
        assert references >= self.config.max_references
        fresh = self.reference_embed.new_zeros(references - self.config.max_references, self.config.width)
        self.reference_embed = nn.Parameter(torch.cat([self.reference_embed.detach(), fresh]))
        self.config = replace(self.config, max_references=references)

    def initialize_weights(self) -> None:
        """AdaLN-Zero: at first every block is the identity and the prediction is zero (DiT, arXiv:2212.09748)."""
        modulations = [stream.modulation for block in self.blocks for stream in (block.image, block.context)]
        for layer in (*modulations, self.modulation_out, self.proj_out):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def patchify(self, latents: Tensor) -> Tensor:
        """(batch, channels, height, width) to (batch, tokens, channels · patch²)."""
        p = self.config.patch_size
        if latents.shape[-2] % p or latents.shape[-1] % p:
            raise ValueError(f"latents of {tuple(latents.shape[-2:])}: the patch size {p} must divide both sides")
        b, c, h, w = latents.shape
        return latents.reshape(b, c, h // p, p, w // p, p).permute(0, 2, 4, 1, 3, 5).reshape(b, -1, c * p * p)

    def unpatchify(self, tokens: Tensor, height: int, width: int) -> Tensor:
        """The inverse of `patchify`; ``height`` and ``width`` are those of the latents."""
        p, c = self.config.patch_size, self.config.latent_channels
        grid = tokens.reshape(tokens.shape[0], height // p, width // p, p, p, c)
        return grid.permute(0, 5, 1, 3, 2, 4).reshape(tokens.shape[0], c, height, width)

    def pack_references(self, pictures: list[list[Tensor]]) -> tuple[Tensor, Tensor, Tensor] | None:
        """Rows of reference latents (channels, height, width) of any sizes, newest first, to padded tokens.

        Returns tokens (batch, tokens, channels · patch²), grid positions (batch, tokens, 3: index from 1, row
        and column, as `centred_grid` gives them) and mask (batch, tokens); None when no row has any.
        Raises ValueError for more than ``max_references`` in a row.
        """
        most = max((len(row) for row in pictures), default=0)
        if most > self.config.max_references:
            raise ValueError(f"{most} reference pictures; this model takes at most {self.config.max_references}")
        if most == 0:
            return None
        p = self.config.patch_size
        like = next(x for row in pictures for x in row)
        tokens, places = [], []
        for row in pictures:
            grids = [centred_grid(self.config, x.shape[-2] // p, x.shape[-1] // p, x.device) for x in row]
            numbered = [F.pad(grid, (1, 0), value=index) for index, grid in enumerate(grids, 1)]
            patches = [self.patchify(x[None])[0] for x in row]
            tokens.append(torch.cat([like.new_zeros(0, self.patch_embed.in_features), *patches]))
            places.append(torch.cat([like.new_zeros(0, 3, dtype=torch.float32), *numbered]))
        length = max(map(len, tokens))
        mask = torch.stack([torch.arange(length, device=like.device) < len(own) for own in tokens])
        tokens = [F.pad(own, (0, 0, 0, length - len(own))) for own in tokens]
        # padding, which nothing attends to, has a place of a first picture's: every index must be a reference's
        places = [F.pad(own, (0, 0, 0, length - len(own)), value=1) for own in places]
        return torch.stack(tokens), torch.stack(places), mask

    def modulations(self, timestep: Tensor, pooled: Tensor) -> Modulations:
        """``timestep`` (..., batch) in [0, 1], ``pooled`` (batch, pooled_width); leading axes of timestep are kept."""
        dtype = self.proj_out.weight.dtype
        time = self.time_embed(timestep_embedding(timestep.flatten()).to(dtype)).unflatten(0, timestep.shape)
        # (rows, width): bitsandbytes' layers of 8 bits take no more than three axes on a CPU
        rows = self.adaln_in(F.silu(time + self.pooled_embed(pooled.to(dtype)))).flatten(0, -2)

        def modulation(layer: nn.Module) -> Tensor:
            return layer(rows).unflatten(0, timestep.shape).unsqueeze(-2)

        return Modulations(
            [(modulation(b.image.modulation), modulation(b.context.modulation)) for b in self.blocks],
            modulation(self.modulation_out),
        )

    def add_positions(
        self, x: Tensor, height: int, width: int, reference_positions: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Adds sine-cosine positions to ``x``, or returns rotary angles for all image tokens (None without)."""
        places = F.pad(centred_grid(self.config, height, width, x.device), (1, 0))[None]  # index 0: what is drawn
        if reference_positions is not None:
            places = torch.cat([places.expand(x.shape[0], -1, -1), reference_positions.to(places)], dim=1)
        if self.config.positions == "rope":
            return x, rotary_angles(places, self.config.width // self.config.heads)
        return x + sincos_table(self.config, places[..., 1:]).to(x), None

    def forward(
        self,
        latents: Tensor,
        timestep: Tensor | None,
        context: Tensor,
        pooled: Tensor | None,
        *,
        context_mask: Tensor | None = None,
        references: tuple[Tensor, Tensor, Tensor] | None = None,
        image_bias: Tensor | None = None,
        modulations: Modulations | None = None,
        early: list[Tensor] | None = None,
        early_block: int = -1,
    ) -> Tensor:
        """Velocity (batch, channels, height, width).

        latents (batch, channels, height, width); timestep (batch,) in [0, 1]; context (batch, tokens,
        context_width), pooled (batch, pooled_width); context_mask (batch, tokens), True where a token
        counts; references as `pack_references` gives them. ``image_bias`` (batch, tokens of the latents, width) is added to
        the image tokens before the blocks. With ``modulations`` they are not computed.
        ``early`` collects the image tokens (batch, tokens, width) after block ``early_block``.
        """
        p = self.config.patch_size
        height, width = latents.shape[-2:]
        if modulations is None:
            assert timestep is not None and pooled is not None
            modulations = self.modulations(timestep, pooled)
        tokens = self.patchify(latents)
        own = tokens.shape[1]
        mask, places = context_mask, None
        if references is not None:
            reference_tokens, places, reference_mask = references
            tokens = torch.cat([tokens, reference_tokens.to(tokens)], dim=1)
        if mask is not None or references is not None:
            parts = [tokens.new_ones(tokens.shape[0], own, dtype=torch.bool)]
            parts += [reference_mask] if references is not None else []
            parts.append(context.new_ones(context.shape[:2], dtype=torch.bool) if mask is None else mask)
            mask = torch.cat(parts, dim=1)
        x = self.patch_embed(tokens)
        if image_bias is not None:
            x = torch.cat([x[:, :own] + image_bias.to(x), x[:, own:]], dim=1)
        x, rotary = self.add_positions(x, height // p, width // p, places)
        if places is not None:
            x = torch.cat([x[:, :own], x[:, own:] + self.reference_embed[places[..., 0].long() - 1].to(x)], dim=1)
        x = self.velocity_tokens(x, own, context, modulations, rotary, mask, early, early_block)
        return self.unpatchify(x, height, width)

    def velocity_tokens(
        self,
        x: Tensor,
        own: int,
        context: Tensor,
        modulations: Modulations,
        rotary: Tensor | None = None,
        mask: Tensor | None = None,
        early: list[Tensor] | None = None,
        early_block: int = -1,
    ) -> Tensor:
        """Velocity of the first ``own`` image tokens (batch, own, patch² · channels), as `unpatchify` takes them.

        ``x`` (batch, tokens, width) are embedded image tokens with their positions; ``mask`` (batch, image and context tokens) is
        True where a token counts; the rest as in `forward`. Rows may be of pictures of different shapes, padded to one length.
        """
        context = self.context_embed(context.to(x.dtype))
        for index, (block, (image_mods, context_mods)) in enumerate(zip(self.blocks, modulations.blocks, strict=True)):
            block_inputs = (x, context, image_mods, context_mods, rotary, mask)
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x, context = checkpoint(block, *block_inputs, use_reentrant=False)
            else:
                x, context = block(*block_inputs)
            if early is not None and index == early_block:
                early.append(x[:, :own])
        scale, shift = modulations.out.chunk(2, dim=-1)
        return self.proj_out(modulate(F.layer_norm(x[:, :own], (x.shape[-1],), eps=1e-6), shift, scale))

    def picture_positions(self, grids: Sequence[tuple[int, int]], length: int) -> tuple[Tensor, Tensor | None]:
        """Positions of pictures of ``length`` tokens, of which those of each of ``grids`` (rows, columns) come first.

        The first tensor is what is added to their embeddings (1 + max_references, grids, length, width) where they are drawn
        (index 0) or the n-th reference, the second their rotary angles (1 + max_references, grids, length, head_width / 2), if
        there are any."""
        device = self.reference_embed.device
        places = torch.stack(
            [
                F.pad(grid, (0, 0, 0, length - len(grid)))
                for grid in (centred_grid(self.config, *g, device) for g in grids)
            ]
        )
        added = F.pad(self.reference_embed, (0, 0, 1, 0))[:, None, None].expand(-1, len(grids), length, -1)
        if self.config.positions == "sincos":
            return added + sincos_table(self.config, places).to(added), None
        index = torch.arange(len(added), device=device)[:, None, None, None].expand(-1, *places.shape[:2], 1)
        numbered = torch.cat([index.to(places), places.expand(len(added), -1, -1, -1)], dim=-1).flatten(0, 1)
        angles = rotary_angles(numbered, self.config.width // self.config.heads)
        return added, angles[:, 0].unflatten(0, added.shape[:2])
