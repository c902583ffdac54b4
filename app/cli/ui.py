"""``limner ui``."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from ..server.options import ServerOptions
from .options import LOADING, Loading
from .serve import SERVER


def ui(
    *,
    loading: Loading = LOADING,
    server: Annotated[ServerOptions, Parameter(name="*")] = SERVER,
    open: bool = False,
) -> int:
    """Chat with the model on a page in the browser; what `limner serve` serves is there, too.

    Args:
        open: show the page in the browser
    """
    from ..server.run import run
    from ..web.mounting import MISSING, is_installed

    if server.no_page or server.replicas > 1:  # each replica would keep conversations of its own
        raise ValueError("limner ui is for the page: leave out --no-page and --replicas, or use limner serve")
    if not is_installed():  # before anything is loaded
        raise ValueError(MISSING)
    return run(loading, server, open_page=open)
