"""Where the stream meets the de-tokenizer: draw requests to conditions, conditions to pictures, steps to events."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image

from ..detokenizer.condition import Condition
from ..detokenizer.detokenizer import Detokenizer
from ..integrations.sdxl.detokenizer import SDXLDetokenizer
from ..mllm.config import LimnerConfig
from ..mllm.decoding import Draw, DrawRequest
from ..mllm.events import Event, PictureBegun, PictureDone, PictureStep
from .resizing import reference_size, resize_and_crop


@dataclass(frozen=True)
class DrawingOptions:
    num_inference_steps: int
    guidance_scale: float
    image_guidance_scale: float
    guidance_interval: tuple[float, float]
    sampler: str

    def __post_init__(self) -> None:
        from ..detokenizer.flow import inference_timesteps
        from ..detokenizer.guidance import Guidance
        from ..detokenizer.samplers import sampler

        # what the drawing would refuse later is refused before the first token
        inference_timesteps(self.num_inference_steps)
        Guidance(self.guidance_scale, self.image_guidance_scale, self.guidance_interval)
        sampler(self.sampler)


def make_draw(
    detokenizer: Detokenizer | SDXLDetokenizer,
    options: DrawingOptions,
    config: LimnerConfig,
    seeds: list[int],
    around: Callable[[], AbstractContextManager] = nullcontext,
) -> Draw:
    """A `Draw` that batches requests of one size and takes noise from (the row's seed, index in the reply).

    ``around`` is entered for every drawing.
    """

    def draw(requests: list[DrawRequest]) -> Generator[Event, None, list[Image.Image]]:
        done: dict[int, Image.Image] = {}
        sizes = sorted({request.size for request in requests})
        for size in sizes:
            group = [r for r in requests if r.size == size]
            yield from (PictureBegun(r.row, r.index, size) for r in group)
            with around():
                images = yield from _draw_group(group, size)
            for request, image in zip(group, images, strict=True):
                done[request.row] = image
                yield PictureDone(request.row, request.index, image)
        return [done[request.row] for request in requests]

    def _draw_group(group: list[DrawRequest], size: tuple[int, int]) -> Generator[Event, None, list[Image.Image]]:
        condition = build_condition(detokenizer, group, config, size)
        work = _Steps()

        def draw_latents() -> torch.Tensor:
            return detokenizer.draw(
                condition,
                *size,
                seeds=[(seeds[r.row], r.index) for r in group],
                num_inference_steps=options.num_inference_steps,
                guidance_scale=options.guidance_scale,
                image_guidance_scale=options.image_guidance_scale,
                guidance_interval=options.guidance_interval,
                sampler=options.sampler,
                callback=work.report,
            )

        for step, steps in work.run(draw_latents):
            yield from (PictureStep(r.row, r.index, step, steps) for r in group)
        return [Image.fromarray(pixels.numpy()) for pixels in work.result]

    return draw


@torch.inference_mode()
def build_condition(
    detokenizer: Detokenizer | SDXLDetokenizer, group: list[DrawRequest], config: LimnerConfig, size: tuple[int, int]
) -> Condition:
    parameter = next(detokenizer.adapter.parameters())
    features = torch.stack([r.features for r in group]).to(parameter)
    prompt = mask = None
    if group[0].prompt is not None and detokenizer.adapter.config.prompt_width:
        prompt = torch.stack([r.prompt for r in group]).to(parameter)
        mask = torch.stack([r.prompt_mask for r in group]).to(parameter.device)
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
    if any(references):
        condition = replace(condition, references=references)
    return condition


def prepare_reference(
    detokenizer: Detokenizer | SDXLDetokenizer, image: Image.Image, config: LimnerConfig, size: tuple[int, int]
) -> Image.Image:
    """The picture as a drawing of ``size`` can refer to it; SDXL's encoder fits it itself."""
    if isinstance(detokenizer, SDXLDetokenizer):
        return image
    return resize_and_crop(image, reference_size(image, config, size, detokenizer.size_multiple, detokenizer.max_side))


class Cancelled(Exception):
    """The drawing's consumer went away (Ctrl-C, a closed generator)."""


class _Steps:
    """Turns the callback of a call that runs elsewhere into an iterator; leaving the iterator stops the call."""

    def __init__(self) -> None:
        self.steps: queue.Queue[tuple[int, int] | None] = queue.Queue()
        self.result: torch.Tensor | None = None
        self.error: BaseException | None = None
        self.stopped = threading.Event()

    def report(self, step: int, steps: int) -> None:
        if self.stopped.is_set():
            raise Cancelled
        self.steps.put((step, steps))

    def run(self, work) -> Generator[tuple[int, int], None, None]:  # noqa: ANN001
        threads = torch.get_num_threads()

        def call() -> None:
            torch.set_num_threads(threads)
            try:
                self.result = work()
            except BaseException as error:  # noqa: BLE001 - handed to the consumer below
                self.error = error
            finally:
                self.steps.put(None)

        worker = threading.Thread(target=call, daemon=True)
        worker.start()
        try:
            while (step := self.steps.get()) is not None:
                yield step
        finally:
            self.stopped.set()
            worker.join()
        if self.error is not None:
            raise self.error
