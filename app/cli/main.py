"""The command line: ``limner chat|draw|edit|describe|info|eval|compare|train|finetune|distill|merge|data|precompute|…``."""

import logging
import sys
from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Literal

from cyclopts import App, CycloptsError, UnusedCliTokensError

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
    train,
)
from .memory import out_of_memory
from .options import SETTINGS

COMMANDS: dict[str, Callable[..., int | None]] = {
    "chat": chat.chat,
    "draw": draw.draw,
    "edit": edit.edit,
    "describe": describe.describe,
    "info": info.info,
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


def print_completion(shell: Literal["bash", "zsh", "fish"], /) -> None:
    """Print what makes a shell complete commands and options."""
    print(application().generate_completion(shell=shell))


def application() -> App:
    top = App(name="limner", help="One model that writes and draws in a single stream.", **SETTINGS)
    for place, (name, command) in enumerate(COMMANDS.items()):
        top.command(command, name=name, sort_key=place)
    inspecting = App(name="data", help="Look through a data set, or filter it into a new one.", sort_key=place + 1)
    inspecting.command(data.check)
    inspecting.command(data.filter_data, name="filter")
    top.command(inspecting)
    top.command(print_completion, name="--print-completion", sort_key=place + 2)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; user mistakes end in one clear line and exit status 2."""
    # imported by diffusers where it is installed; on a CPU it reports a kernel that it does without
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    words = list(sys.argv[1:] if arguments is None else arguments)
    # --output is what --out was called
    options = sum(1 for _ in takewhile(lambda word: word != "--", words))
    words[:options] = [f"--out{word[8:]}" if f"{word}=".startswith("--output=") else word for word in words[:options]]
    try:
        status = application()(words)
        return status or 0 if words else 2
    except BrokenPipeError:
        sys.stderr.close()  # the reader went away (`limner describe … | head`)
        return 0
    except UnusedCliTokensError as error:
        said = f"unexpected {' '.join(error.unused_tokens or ())}; a prompt of several words stands in quotes"
    except (CycloptsError, ValueError, FloatingPointError, OSError) as error:  # OSError: a full disk, no rights
        said = str(error)
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        said = "there is not enough memory for this"
    except KeyboardInterrupt as error:
        print(f"\nlimner: {str(error) or 'stopped'}", file=sys.stderr)
        return 130
    print(f"limner: {said}", file=sys.stderr)
    return 2
