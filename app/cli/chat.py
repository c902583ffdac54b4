"""``limner chat``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from ...inference.generation_config import GenerationConfig, GenerationOptions
from ...inference.model_folders import find_model
from . import line_input
from .options import CHATTING, LOADING, AllowUrl, Loading, Size, Whole, checked, takes

if TYPE_CHECKING:
    from .repl import Repl


@takes(GenerationConfig, CHATTING, shown=False)
def chat(
    *,
    loading: Loading = LOADING,
    allow_url: AllowUrl = (),
    seed: Whole = 0,
    size: Size | None = None,
    **options: Unpack[GenerationOptions],
) -> int:
    """Talk with the model; it draws when asked.

    Args:
        allow_url: a host whose URLs are fetched by /image; repeatable
        seed: of the first picture; the same request and seed give the same picture
        size: height and width of the pictures in pixels, such as 128x128
    """

    request = {"seed": seed, **checked(options, size)}
    find_model(loading.model)  # a mistyped name is said before anything loads

    def make() -> Repl:
        from .repl import Repl

        return Repl(loading.load(allow_urls=allow_url), request)

    making, first = line_input.meanwhile(make), ""
    if sys.stdin.isatty():
        line_input.greet(Path(loading.model).name)
        if (line := line_input.read()) is None:
            return 0
        first = line
    return making.result().run(first)
