"""Where the stream meets the de-tokenizer: draw requests to conditions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from PIL import Image

from ..detokenizer.condition import Condition
from ..detokenizer.detokenizer import Detokenizer, Drawing
from ..detokenizer.drawing_options import DrawingOptions
from ..mllm.config import LimnerConfig
from ..mllm.rows import DrawRequest
from .resizing import reference_size, resize_and_crop


def begin_drawing(
    detokenizer: Detokenizer,
    group: list[DrawRequest],
    config: LimnerConfig,
    options: DrawingOptions,
    seeds: Sequence[int],
) -> Drawing:
    """The drawing of requests for pictures of one size. The noise of each is of its row's seed and its index in the reply."""
    (size,) = {request.size for request in group}
    own = [(seeds[request.row], request.index) for request in group]
    return detokenizer.begin(build_condition(detokenizer, group, config, size), *size, seeds=own, options=options)


@torch.inference_mode()
def build_condition(
    detokenizer: Detokenizer, group: list[DrawRequest], config: LimnerConfig, size: tuple[int, int]
) -> Condition:
    """One row a request; all of them draw pictures of ``size``, height and width in pixels."""
    assert detokenizer.adapter is not None
    parameter = next(detokenizer.adapter.parameters())
    features = torch.stack([r.features for r in group]).to(parameter)
    prompt = mask = None
    if group[0].prompt is not None and detokenizer.adapter.config.prompt_width:
        # a model gives all of them a prompt or none
        prompt = torch.stack([r.prompt for r in group]).to(parameter)  # type: ignore[misc]
        mask = torch.stack([r.prompt_mask for r in group]).to(parameter.device)  # type: ignore[misc]
    condition = detokenizer.condition(features, prompt, mask, [r.glyph_text for r in group])
    references = [
        [
            detokenizer.encode_reference(
                torch.from_numpy(np.array(prepare_reference(detokenizer, image, config, size))), size
            )
            for image in r.previous_images[: config.max_references]
        ]
        for r in group
    ]
    return replace(condition, references=references) if any(references) else condition


def prepare_reference(
    detokenizer: Detokenizer, image: Image.Image, config: LimnerConfig, size: tuple[int, int]
) -> Image.Image:
    """The picture as a drawing of ``size`` can refer to it."""
    if detokenizer.stretches_references:
        return image
    target = reference_size(image, config, size, detokenizer.size_multiple, detokenizer.max_side)
    return resize_and_crop(image, target)
