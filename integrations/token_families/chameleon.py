"""Chameleon (Chameleon Team 2024, arXiv:2405.09818): codes are words between two control tokens. transformers has its tokenizer
and its backbone, and no pixel decoder."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import ChameleonForConditionalGeneration, ChameleonProcessor, PreTrainedModel, ProcessorMixin

from .model import Grid, ImageTokenModel, ids_of_codes


class Chameleon(ImageTokenModel):
    """A prompt, the token that ends a turn, ``<racm3:break>``, codes: `sample` only.

    `ChameleonForConditionalGeneration` never gives a code: its forward takes them out of the logits. Here they come from the head
    itself. Guidance moves away from a picture without a prompt.
    """

    model_class = ChameleonForConditionalGeneration
    processor_class = ChameleonProcessor
    has_pixel_decoder = False
    token_guidance_scale = 3.0

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin) -> None:
        super().__init__(model, processor)
        codebook = self.model.config.vq_config
        self.num_codes = codebook.num_embeddings
        self.code_ids = ids_of_codes(self.model.model.vocabulary_mapping, self.num_codes)
        self.pixels_per_code = 2 ** (len(codebook.channel_multiplier) - 1)
        side = codebook.resolution // self.pixels_per_code
        self.default_grid = (side, side)

    @property
    def backbone(self) -> Any:
        return self.model.model

    def prompt_ids(self, prompt: str, grid: Grid) -> list[int]:
        return [
            *self.processor(text=prompt, return_tensors="pt")["input_ids"][0].tolist(),
            self.processor.image_start_token_id,
        ]

    def unconditional_ids(self, prompt_ids: list[int], negative_prompt: str, grid: Grid) -> list[int]:
        if negative_prompt:
            return self.prompt_ids(negative_prompt, grid)
        return [self.processor.tokenizer.bos_token_id, self.processor.image_start_token_id]

    def tokenize(self, inputs: Any) -> Tensor:
        return self.model.model.vqmodel.encode(inputs["pixel_values"]).image_tokens.reshape(self.default_grid)
