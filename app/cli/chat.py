"""``limner chat``."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from ...inference.generation_config import GenerationConfig, GenerationOptions
from ...inference.model_folders import find_model
from . import line_input
from .completion import completions
from .options import CHATTING, LOADING, AllowUrl, File, Loading, NoMetadata, Size, Whole, checked, takes
from .terminal import graphics

if TYPE_CHECKING:
    from .repl import Repl


@takes(GenerationConfig, CHATTING, shown=False)
def chat(
    *,
    loading: Loading = LOADING,
    load: File | None = None,
    allow_url: AllowUrl = (),
    seed: Whole | None = None,
    size: Size | None = None,
    no_metadata: NoMetadata = False,
    **options: Unpack[GenerationOptions],
) -> int:
    """Talk with the model; it draws when asked.

    Args:
        load: a conversation that /save wrote, to go on with; options that are given replace its own
        allow_url: a host whose URLs are fetched by /image; repeatable
        seed: of the first picture (default: 0); the same request and seed give the same picture
        size: height and width of the pictures in pixels, such as 128x128
        no_metadata: write no prompts, seeds and options into PNG files
    """

    request = checked(options, size)
    if seed is not None or load is None:
        request["seed"] = seed or 0
    find_model(loading.model)  # a mistyped name is said before anything loads
    if load is not None and not load.is_file():
        raise ValueError(f"no such file: {load}")

    def make() -> Repl:
        from .repl import Repl

        return Repl(loading.load(allow_urls=allow_url), request, load, not no_metadata)

    def loaded_adapters() -> list[str]:
        return making.result().model.adapters.user if making.done() and not making.exception() else []

    making, first = line_input.meanwhile(make), ""
    shown = graphics(os.environ, sys.stdout.isatty())  # it may ask the terminal: before anything is read from it
    if sys.stdin.isatty():
        line_input.greet(Path(loading.model).resolve().name, partial(completions, adapters=loaded_adapters))
        if (line := line_input.read()) is None:
            return 0
        first = line
    repl = making.result()
    repl.graphics = shown
    return repl.run(first)
