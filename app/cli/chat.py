"""``limner chat``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from ...inference.generation_config import GenerationConfig, GenerationOptions
from ...inference.model_folders import find_model
from . import line_input
from .options import CHATTING, LOADING, AllowUrl, File, Loading, Size, Whole, checked, takes
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
    **options: Unpack[GenerationOptions],
) -> int:
    """Talk with the model; it draws when asked.

    Args:
        load: a conversation that /save wrote, to go on with; options that are given replace its own
        allow_url: a host whose URLs are fetched by /image; repeatable
        seed: of the first picture (default: 0); the same request and seed give the same picture
        size: height and width of the pictures in pixels, such as 128x128
    """

    request = checked(options, size)
    if seed is not None or load is None:
        request["seed"] = seed or 0
    find_model(loading.model)  # a mistyped name is said before anything loads
    if load is not None and not load.is_file():
        raise ValueError(f"no such file: {load}")

    def make() -> Repl:
        from .repl import Repl

        return Repl(loading.load(allow_urls=allow_url), request, load)

    making, first = line_input.meanwhile(make), ""
    shown = graphics(os.environ, sys.stdout.isatty())  # it may ask the terminal: before anything is read from it
    if sys.stdin.isatty():
        line_input.greet(Path(loading.model).resolve().name)
        if (line := line_input.read()) is None:
            return 0
        first = line
    repl = making.result()
    repl.graphics = shown
    return repl.run(first)
