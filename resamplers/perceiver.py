"""The resampler of SEED-X's SDXL de-tokenizers. Its parameters have the names of the released checkpoints."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .attention import attention


class PerceiverAttention(nn.Module):
    """The latents attend to the tokens and to each other (Flamingo, arXiv:2204.14198)."""

    def __init__(self, width: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.heads = heads
        inner = heads * head_width
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.to_q = nn.Linear(width, inner, bias=False)
        self.to_kv = nn.Linear(width, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor, latents: Tensor) -> Tensor:
        x, latents = self.norm1(x), self.norm2(latents)
        k, v = self.to_kv(torch.cat([x, latents], dim=1)).chunk(2, dim=-1)
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (self.to_q(latents), k, v))
        return self.to_out(attention(q, k, v).transpose(1, 2).flatten(2))


class AttentionPool(nn.Module):
    """(batch, tokens, width) to (batch, out_width): the tokens' mean attends to all of them (CLIP's ResNet,
    arXiv:2103.00020)."""

    def __init__(self, tokens: int, width: int, heads: int, out_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.positional_embedding = nn.Parameter(torch.randn(tokens + 1, width) * width**-0.5)
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(width, width) for _ in range(3))
        self.c_proj = nn.Linear(width, out_width)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x.mean(1, keepdim=True), x], dim=1) + self.positional_embedding
        q, k, v = self.q_proj(x[:, :1]), self.k_proj(x), self.v_proj(x)
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        return self.c_proj(attention(q, k, v).transpose(1, 2).flatten(1))


class PerceiverResampler(nn.Module):
    """(batch, any number of tokens, in_width) to (batch, num_queries, out_widths[0] + out_widths[1]) and
    (batch, out_widths[1]): these replace the states of SDXL's two text encoders and the pooled vector of the second."""

    def __init__(
        self,
        in_width: int,
        out_widths: tuple[int, int],
        num_queries: int,
        *,
        width: int,
        depth: int,
        heads: int,
        head_width: int,
    ) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.randn(1, num_queries, width) * width**-0.5)
        self.proj_in = nn.Linear(in_width, width)
        feed_forward = (
            nn.Sequential(
                nn.LayerNorm(width),
                nn.Linear(width, 4 * width, bias=False),
                nn.GELU(),
                nn.Linear(4 * width, width, bias=False),
            )
            for _ in range(depth)
        )
        self.layers = nn.ModuleList(
            nn.ModuleList([PerceiverAttention(width, heads, head_width), ff]) for ff in feed_forward
        )
        self.norm_out = nn.LayerNorm(width)
        self.unet_proj_1, self.unet_proj_2 = (nn.Linear(width, out) for out in out_widths)
        self.unet_attnpool = AttentionPool(num_queries, width, heads, out_widths[1])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.proj_in(x)
        latents = self.latents.expand(x.shape[0], -1, -1)
        for read, feed_forward in map(nn.Module.children, self.layers):
            latents = latents + read(x, latents)
            latents = latents + feed_forward(latents)
        latents = self.norm_out(latents)
        return torch.cat([self.unet_proj_1(latents), self.unet_proj_2(latents)], dim=-1), self.unet_attnpool(latents)
