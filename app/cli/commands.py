"""The commands of ``limner``."""

import shutil
from collections.abc import Callable
from typing import Literal

from cyclopts import App

from . import (
    build,
    chat,
    compare,
    convert,
    data,
    describe,
    distill,
    draw,
    edit,
    evaluate,
    finetune,
    info,
    merge,
    precompute,
    serve,
    train,
    ui,
)
from .options import SETTINGS
from .version import version

COMMANDS: dict[str, Callable[..., int | None]] = {
    "chat": chat.chat,
    "draw": draw.draw,
    "edit": edit.edit,
    "describe": describe.describe,
    "info": info.info,
    "serve": serve.serve,
    "ui": ui.ui,
    "eval": evaluate.evaluate,
    "compare": compare.compare,
    "train": train.train,
    "finetune": finetune.finetune,
    "distill": distill.distill,
    "merge": merge.merge,
    "precompute": precompute.precompute,
    "build": build.build,
    "convert": convert.convert,
}


MIN_COLUMNS = 20
"""Of the help: in two it would be laid out for ever"""


def print_completion(shell: Literal["bash", "zsh", "fish"], /) -> None:
    """Print what makes a shell complete commands and options."""
    print(application().generate_completion(shell=shell))


def application() -> App:
    top = App(name="limner", help="One model that writes and draws in a single stream.", version=version, **SETTINGS)
    if shutil.get_terminal_size().columns < MIN_COLUMNS:
        from rich.console import Console

        top.console = Console(width=MIN_COLUMNS)
    for place, (name, command) in enumerate(COMMANDS.items()):
        top.command(command, name=name, sort_key=place)
    inspecting = App(name="data", help="Look through a data set, or filter it into a new one.", sort_key=place + 1)
    inspecting.command(data.check)
    inspecting.command(data.filter_data, name="filter")
    top.command(inspecting)
    top.command(print_completion, name="--print-completion", sort_key=place + 2)
    return top
