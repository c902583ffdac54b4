"""Emu3 (Wang et al. 2024, arXiv:2409.18869): codes are words, row by row with an end-of-line token, after the size in words."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import Emu3ForConditionalGeneration, Emu3Processor, PreTrainedModel, ProcessorMixin

from .model import Grid, ImageTokenModel, ids_of_codes


class Emu3(ImageTokenModel):
    """``<|image start|>height*width<|image token|>`` codes ``<|extra_200|>`` codes ``<|extra_200|>`` …

    A picture may have any height and width, in steps of a code. What follows the last code says nothing more of it and is not
    computed.
    """

    model_class = Emu3ForConditionalGeneration
    processor_class = Emu3Processor
    any_size = True
    token_guidance_scale = 3.0

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin) -> None:
        super().__init__(model, processor)
        own, mapping = self.processor, self.model.vocabulary_mapping
        self.num_codes = self.model.config.vq_config.codebook_size
        self.code_ids = ids_of_codes(mapping, self.num_codes)
        self.end_of_line: int = mapping.eol_token_id
        self.pixels_per_code = self.model.model.vqmodel.vision_spatial_factor
        self.default_grid = own.calculate_generate_size(own.ratio, own.image_area, own.downsample_ratio)

    @property
    def backbone(self) -> Any:
        return self.model.model.text_model

    def prompt_ids(self, prompt: str, grid: Grid) -> list[int]:
        rows, columns = grid
        inputs = self.processor(
            text=prompt,
            return_for_image_generation=True,
            ratio=f"{columns}:{rows}",
            image_area=rows * columns * self.processor.downsample_ratio**2,
            return_tensors="pt",
        )
        return inputs["input_ids"][0].tolist()

    def unconditional_ids(self, prompt_ids: list[int], negative_prompt: str, grid: Grid) -> list[int]:
        return self.prompt_ids(negative_prompt, grid)

    def control_after(self, count: int, grid: Grid) -> list[int]:
        return [self.end_of_line] if count % grid[1] == 0 else []

    def pixels(self, codes: Tensor) -> Tensor:
        return self.model.model.vqmodel.decode(codes)

    def tokenize(self, inputs: Any) -> Tensor:
        return self.model.model.vqmodel.encode(inputs["pixel_values"], inputs["image_sizes"]).image_tokens[0]
