"""Janus and Janus-Pro (Wu et al. 2024, arXiv:2410.13848; Chen et al. 2025, arXiv:2501.17811): codes have a table and a head of
their own, and a picture always has as many."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import JanusForConditionalGeneration, JanusProcessor, PreTrainedModel, ProcessorMixin

from .model import Grid, ImageTokenModel


class Janus(ImageTokenModel):
    """A conversation by the processor's chat template, ``<begin_of_image>``, codes.

    Guidance moves away from the same request with padding in place of all its tokens but the first and the last.
    """

    model_class = JanusForConditionalGeneration
    processor_class = JanusProcessor
    token_guidance_scale = 5.0

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin) -> None:
        super().__init__(model, processor)
        codebook = self.model.config.vq_config
        self.num_codes = codebook.num_embeddings
        self.code_ids = torch.empty(0, dtype=torch.long)  # none of them is in the vocabulary
        self.pixels_per_code = 2 ** (len(codebook.channel_multiplier) - 1)
        self.default_grid = (codebook.num_patches, codebook.num_patches)

    @property
    def backbone(self) -> Any:
        return self.model.model.language_model

    def prompt_ids(self, prompt: str, grid: Grid) -> list[int]:
        message = {"role": "user", "content": [{"type": "text", "text": prompt}]}
        text = self.processor.apply_chat_template([message], add_generation_prompt=True)
        return self.processor(text=text, generation_mode="image", return_tensors="pt")["input_ids"][0].tolist()

    def unconditional_ids(self, prompt_ids: list[int], negative_prompt: str, grid: Grid) -> list[int]:
        if negative_prompt:
            raise ValueError(
                "Janus is not guided by a negative prompt: leave it out, and say in the prompt what to draw instead"
            )
        tokenizer = self.processor.tokenizer
        kept = (tokenizer.bos_token_id, tokenizer.boi_token_id)
        return [token if token in kept else tokenizer.pad_token_id for token in prompt_ids]

    def embed_codes(self, codes: Tensor) -> Tensor:
        return self.model.prepare_embeddings_for_image_generation(codes[:, None])

    def code_logits(self, states: Tensor) -> Tensor:
        return self.model.model.generation_head(states)

    def pixels(self, codes: Tensor) -> Tensor:
        # not decode_image_tokens, whose pixels have their channels last: the processor without torchvision fails on those
        return self.model.model.vqmodel.decode(codes.flatten(1))

    def tokenize(self, inputs: Any) -> Tensor:
        return self.model.model.vqmodel.encode(inputs["pixel_values"]).image_tokens.reshape(self.default_grid)
