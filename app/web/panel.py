"""The side panel: how the next reply is made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from ...inference.chat import ChatOptions
from ...inference.model import Limner
from .texts import text

DRAWING = {"auto": "draw_auto", "force": "draw_always", "never": "draw_never"}
"""The option ``images`` and what its values are called"""
MAX_SEED = 2**32


class Panel:
    """Its components. Their values go to every event that makes a reply, where `options` reads them; `values` shows options."""

    def __init__(self, model: Limner, i18n: gr.I18n, most: int) -> None:
        """``most`` is the number of replies that the server gives to a request."""
        self.model = model
        own = i18n("own")
        self.draw = gr.Radio(drawing_choices("en"), value="auto", label=i18n("draw"), elem_id="draw")
        self.shape = gr.Dropdown(shape_choices(model, "en"), value="", label=i18n("shape"), elem_id="shape")
        with gr.Row():
            self.steps = gr.Number(
                None,
                label=i18n("steps"),
                info=own,
                precision=0,
                minimum=1,
                maximum=1000,
                min_width=100,
                elem_id="steps",
            )
            self.guidance = gr.Number(
                None,
                label=i18n("guidance"),
                info=own,
                minimum=0,
                maximum=1000,
                step=0.5,
                min_width=100,
                elem_id="guidance",
            )
        with gr.Row():
            self.seed = gr.Number(
                None, label=i18n("seed"), precision=0, minimum=0, maximum=MAX_SEED, min_width=100, elem_id="seed"
            )
            self.lock = gr.Checkbox(False, label=i18n("lock"), min_width=100, elem_id="lock")
        self.number = gr.Slider(2, max(2, most), value=min(4, most), step=1, label=i18n("candidates"), elem_id="number")
        self.adapters: dict[str, gr.Slider] = {}
        if model.adapters.user:
            with gr.Accordion(i18n("adapters"), open=True):
                for name in model.adapters.user:
                    weight = model.adapters.loaded[name].weight
                    self.adapters[name] = gr.Slider(0, max(2.0, weight), value=weight, step=0.05, label=name)

    @property
    def components(self) -> list[Any]:
        """In the order of `options` and `values`."""
        return [
            self.draw, self.shape, self.steps, self.guidance, self.seed, self.lock, self.number, *self.adapters.values()
        ]  # fmt: skip

    def options(self, values: Sequence[Any], random_seed: int) -> ChatOptions:
        """By the components' values; ``random_seed`` where none is kept."""
        draw, shape, steps, guidance, seed, lock, _, *weights = values
        height, _, width = str(shape or "").partition("x")
        given = {
            "images": draw,
            "height": int(height) if height else None,
            "width": int(width) if width else None,
            "num_inference_steps": steps,
            "guidance_scale": guidance,
            "seed": int(seed) if lock and seed is not None else random_seed,
            "adapters": dict(zip(self.adapters, weights, strict=True)) or None,
        }
        return ChatOptions(**{name: value for name, value in given.items() if value is not None})  # type: ignore[typeddict-item]

    def values(self, options: dict[str, Any], language: str | None = None) -> list[Any]:
        """What shows these options, in the order of `components`, with choices in a language where one is given."""
        height, weights = options.get("height"), options.get("adapters") or {}
        shape = f"{height}x{options.get('width')}" if height else ""
        shapes: dict[str, Any] = {} if language is None else {"choices": shape_choices(self.model, language, shape)}
        drawing: dict[str, Any] = {} if language is None else {"choices": drawing_choices(language)}
        return [
            gr.update(value=options.get("images") or "auto", **drawing),
            gr.update(value=shape, **shapes),
            options.get("num_inference_steps"),
            options.get("guidance_scale"),
            options.get("seed"),
            gr.skip(),
            gr.skip(),
            *(weights.get(name, self.model.adapters.loaded[name].weight) for name in self.adapters),
        ]


def drawing_choices(language: str) -> list[tuple[str, str]]:
    """When pictures are drawn."""
    return [(text(name, language), value) for value, name in DRAWING.items()]


def shape_choices(model: Limner, language: str, own: str = "") -> list[tuple[str, str]]:
    """The shapes that a model knows, and what was asked for beside them. Shown are width and height, as in pictures' programs."""
    sizes = list(model.config.shapes) or [model.config.default_size]
    names = [f"{height}x{width}" for height, width in sizes]
    names += [own] if own and own not in names else []
    shown = [(" × ".join(reversed(name.split("x"))), name) for name in names]
    return [(text("shape_auto", language), ""), *shown]
