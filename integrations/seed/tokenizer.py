"""SEED's visual tokenizer: an image to 32 causal codes, and these to the image embedding that unCLIP diffusion draws from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import Blip2QFormerConfig, Blip2QFormerModel, Blip2VisionConfig, Blip2VisionModel

from ...mllm.visual_tokens.codes import check_codes
from ...mllm.visual_tokens.quantizers import nearest_codes


@dataclass
class SeedTokenizerConfig:
    """Sizes of a `SeedTokenizer`; the defaults are those of the released SEED-2. Raises ValueError for values below 1."""

    image_size: int = 224
    """Side in pixels of the (square) image."""
    patch_size: int = 14
    vision_width: int = 1408
    vision_layers: int = 39
    vision_heads: int = 16
    vision_mlp_width: int = 6144
    num_tokens: int = 32
    """Codes of an image."""
    width: int = 768
    """Of the Q-Former and the decoder."""
    layers: int = 12
    heads: int = 12
    mlp_width: int = 3072
    cross_attention_frequency: int = 2
    """Every so many layers of the Q-Former, from the first, the queries see the image."""
    num_codes: int = 8192
    code_width: int = 32
    decoder_layers: int = 4
    decoder_heads: int = 12
    decoder_mlp_width: int = 3072
    down_widths: tuple[int, ...] = (256, 128, 32)
    """Through which each token is narrowed before all of them give the image embedding."""
    embed_width: int = 1024
    """Width of the image embedding, that of CLIP ViT-H."""

    def __post_init__(self) -> None:
        self.down_widths = tuple(self.down_widths)  # JSON knows lists only
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if min(value if isinstance(value, tuple) else (value,), default=0) < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")


class SeedTokenizer(nn.Module):
    """BLIP-2's ViT-g and a Q-Former whose queries see earlier queries only, a codebook, and a decoder to an image embedding.

    Images are resized to a square, whatever their shape, and normalised as CLIP's. All 32 codes are needed to decode: these are
    trained without nested dropout.
    """

    def __init__(self, config: SeedTokenizerConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.vision_model = Blip2VisionModel(
            Blip2VisionConfig(
                hidden_size=config.vision_width,
                intermediate_size=config.vision_mlp_width,
                num_hidden_layers=config.vision_layers,
                num_attention_heads=config.vision_heads,
                image_size=config.image_size,
                patch_size=config.patch_size,
            )
        )
        # LAVIS' layer norm after the tower has PyTorch's default, transformers gives it the tower's 1e-6
        self.vision_model.post_layernorm.eps = 1e-5
        self.queries = nn.Parameter(torch.randn(config.num_tokens, width) * 0.02)
        self.qformer = Blip2QFormerModel(
            Blip2QFormerConfig(
                hidden_size=width,
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                intermediate_size=config.mlp_width,
                cross_attention_frequency=config.cross_attention_frequency,
                encoder_hidden_size=config.vision_width,
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
            )
        )
        self.vector_proj = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, config.code_width))
        self.codebook = nn.Parameter(torch.randn(config.num_codes, config.code_width))
        self.code_proj = nn.Sequential(
            nn.Linear(config.code_width, config.code_width), nn.Tanh(), nn.Linear(config.code_width, width)
        )
        self.positions = nn.Parameter(torch.randn(config.num_tokens, width) * 0.02)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width,
                config.decoder_heads,
                config.decoder_mlp_width,
                dropout=0.0,
                activation="gelu",
                layer_norm_eps=1e-6,
                batch_first=True,
                norm_first=True,
            )
            for _ in range(config.decoder_layers)
        )
        down: list[nn.Module] = []
        for narrow, wide in zip(config.down_widths, (width, *config.down_widths), strict=False):
            down += [nn.Linear(wide, narrow, bias=False), nn.ReLU()]
        self.down = nn.Sequential(*down[:-1])
        self.embed_proj = nn.Linear(config.num_tokens * config.down_widths[-1], config.embed_width)

    def encode(self, pixel_values: Tensor) -> Tensor:
        """Images (batch, 3, image_size, image_size), normalised as CLIP's, to codes (batch, num_tokens)."""
        features = self.vision_model(pixel_values=pixel_values).last_hidden_state
        queries = self.queries.expand(len(features), -1, -1)
        tokens = queries.shape[1]
        causal = queries.new_full((tokens, tokens), torch.finfo(queries.dtype).min).triu(1)
        states = self.qformer(
            query_embeds=queries,
            attention_mask=causal.expand(len(features), 1, -1, -1),
            encoder_hidden_states=features,
        ).last_hidden_state
        return nearest_codes(self.vector_proj(states), self.codebook)

    def decode(self, codes: Tensor) -> Tensor:
        """Codes (batch, num_tokens) to image embeddings (batch, embed_width).

        Raises ValueError for codes that are not in the codebook and for more or fewer than ``num_tokens``.
        """
        if codes.shape[1] != self.config.num_tokens:
            raise ValueError(f"{codes.shape[1]} codes of an image: SEED's decoder needs all {self.config.num_tokens}")
        check_codes(codes, self.config.num_codes)
        x = self.code_proj(self.codebook[codes]) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.embed_proj(self.down(x).flatten(1))
