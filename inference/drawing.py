"""Where the stream meets the de-tokenizer: draw requests to conditions, conditions to pictures, steps to events."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import replace

import numpy as np
import torch
from PIL import Image

from ..detokenizer.condition import Condition
from ..detokenizer.detokenizer import Detokenizer
from ..detokenizer.drawing_options import DrawingOptions
from ..mllm.config import LimnerConfig
from ..mllm.decoding import Draw, DrawRequest
from ..mllm.events import Event, PictureBegun, PictureDone, PictureStep
from .resizing import reference_size, resize_and_crop


def make_draw(
    detokenizer: Callable[[], Detokenizer],
    options: DrawingOptions,
    config: LimnerConfig,
    seeds: Sequence[int],
    resume: Callable[[], None] = lambda: None,
) -> Draw:
    """A `Draw` that batches requests of one size and takes noise from (the row's seed, index in the reply).

    ``detokenizer`` is asked for when a batch of pictures begins, ``resume`` called when the stream goes on.
    """

    def draw(requests: list[DrawRequest]) -> Generator[Event, None, list[Image.Image]]:
        done: dict[int, Image.Image] = {}
        for size in sorted({request.size for request in requests}):
            group = [r for r in requests if r.size == size]
            yield from (PictureBegun(r.row, r.index, size) for r in group)
            images = yield from draw_group(detokenizer(), group, size)
            for request, image in zip(group, images, strict=True):
                done[request.row] = image
                yield PictureDone(request.row, request.index, image)
        resume()
        return [done[request.row] for request in requests]

    def draw_group(
        drawing: Detokenizer, group: list[DrawRequest], size: tuple[int, int]
    ) -> Generator[Event, None, list[Image.Image]]:
        sampling = drawing.sample(
            build_condition(drawing, group, config, size),
            *size,
            seeds=[(seeds[r.row], r.index) for r in group],
            options=options,
        )
        while True:
            try:
                step, steps = next(sampling)
            except StopIteration as stopped:
                return [Image.fromarray(pixels.numpy()) for pixels in stopped.value]
            yield from (PictureStep(r.row, r.index, step, steps) for r in group)

    return draw


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
