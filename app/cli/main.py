"""The command line: ``limner chat|draw|edit|describe|info|serve|ui|eval|compare|train|finetune|distill|merge|data|precompute|…``.

Nothing but `main` is made here: what takes long is imported inside it, where Ctrl-C is met.
"""

import contextlib
import logging
import os
import sys
from collections.abc import Sequence
from itertools import takewhile

from .terminal import printable_streams

EXTRAS = {
    "bitsandbytes": "quantized",
    "fastapi": "serve",
    "gradio": "ui",
    "prometheus_client": "serve",
    "uvicorn": "serve",
    "datasets": "train",
    "hydra": "train",
    "omegaconf": "train",
    "pyarrow": "train",
    "ray": "ray",
    "sentencepiece": "convert",
    "tensorboard": "train",
}
"""Modules that come with an extra of the package"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status: user mistakes end in one clear line and 2, Ctrl-C in 130."""
    try:
        with printable_streams():
            status, said = run(list(sys.argv[1:] if arguments is None else arguments))
            if said:
                print(f"limner: {said}", file=sys.stderr)
            return status
    except BrokenPipeError:  # the reader went away (`limner describe … | head`)
        discard_output()
        return 0
    except OSError as error:  # a full disk behind `> file`
        discard_output()
        with contextlib.suppress(OSError):
            print(f"limner: standard output: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def run(words: list[str]) -> tuple[int, str]:
    """The exit status, and what there is to say of a mistake."""
    # imported by diffusers where it is installed; on a CPU it reports a kernel that it does without
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    logging.getLogger("PIL").setLevel(logging.CRITICAL)  # of a broken picture, which is refused in a line of ours
    # --output is what --out was called
    options = sum(1 for _ in takewhile(lambda word: word != "--", words))
    words[:options] = [f"--out{word[8:]}" if f"{word}=".startswith("--output=") else word for word in words[:options]]
    try:
        from cyclopts import CycloptsError, UnusedCliTokensError

        from .commands import application
        from .memory import NO_MEMORY, out_of_memory

        try:
            status = application()(words)
            return (status if isinstance(status, int) else 0) if words else 2, ""
        except BrokenPipeError:
            raise
        except UnusedCliTokensError as error:
            left = " ".join(error.unused_tokens or ())
            return 2, f"unexpected {left}; a prompt of several words stands in quotes"
        except (CycloptsError, ValueError, FloatingPointError, OSError) as error:  # OSError: a full disk, no rights
            discard_output()  # where it is the standard output's, it would come again
            return 2, NO_MEMORY if out_of_memory(error) else str(error)
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            return 2, NO_MEMORY
        except ModuleNotFoundError as error:
            module = (error.name or "").partition(".")[0]
            if module not in EXTRAS:
                raise
            return 2, f"this needs the package {module}: pip install 'limner[{EXTRAS[module]}]'"
    except KeyboardInterrupt as error:
        print(file=sys.stderr)
        return 130, str(error) or "stopped"


def discard_output() -> None:
    """What waits in the buffers goes nowhere, so that Python does not report it once more when it ends."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            with contextlib.suppress(OSError, ValueError):  # ValueError: not a stream of a file
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
