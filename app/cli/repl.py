"""``limner chat``: line editing, pictures inline and saved, slash commands; piped input is read line by line."""

from __future__ import annotations

import os
import shutil
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from ...inference.adapters import split_weight
from ...inference.chat import Chat
from ...inference.images import load_image
from ...inference.model import Limner
from ...inference.output import free_path, save_image
from ...inference.progress import ProgressBar
from ...mllm.events import Finished, PictureDone, TextPiece
from .line_input import read
from .memory import out_of_memory
from .sizes import parse_size
from .terminal import graphics, show

HELP = """\
Say what you want; the model draws when you ask for a picture.
  /image PATH   show it a picture with your next message
  /undo         forget the last turn
  /clear        forget all of them
  /retry        answer the last message again, with another seed
  /seed N       the seed of the next pictures
  /size HxW     size of the pictures, such as 128x128; /size auto lets the model choose
  /steps N      sampling steps; more is slower and finer
  /adapter DIR  load a LoRA adapter, DIR:0.5 at half its weight; /adapter off takes all off; alone it lists them
  /save PATH    write the conversation and its pictures
  /help         this text
  /quit         leave (so does Ctrl-D); Ctrl-C stops a reply"""


class Repl:
    def __init__(self, model: Limner, options: dict[str, Any]) -> None:
        self.model = model
        if options["height"] is not None:
            model.detokenizer.check_size(options["height"], options["width"])
        check_steps(options["num_inference_steps"])
        self.chat = Chat(model, **options)
        self.pending: list[Image.Image] = []
        self.saved: Path | None = None
        self.graphics = graphics(os.environ, sys.stdout.isatty())
        self.commands: dict[str, Callable[[str], None]] = {
            "image": self.image,
            "undo": lambda _: self.chat.undo(),
            "clear": lambda _: self.chat.clear(),
            "retry": self.retry,
            "seed": self.seed,
            "size": self.size,
            "steps": self.steps,
            "adapter": self.adapter,
            "save": self.save,
            "help": lambda _: print(HELP),
        }

    def run(self, line: str | None = "") -> int:
        """Answer ``line``, then what is typed until the end."""
        while line is not None:
            line = line.strip()
            if line in ("/quit", "/exit"):
                break
            if line:
                self.answer(line)
            line = read()
        return 0

    def answer(self, line: str) -> None:
        """One line; mistakes and Ctrl-C are said and the conversation goes on as it was."""
        try:
            if line.startswith("/"):
                name, _, rest = line[1:].partition(" ")
                if name not in self.commands:
                    raise ValueError(f"no command /{name}; /help lists them")
                self.commands[name](rest.strip())
            else:
                self.say(line, self.pending)
                self.pending = []
        except (ValueError, OSError) as error:  # OSError: a full disk, a folder without rights
            print(f"limner: {error}", file=sys.stderr)
        except KeyboardInterrupt:
            print("\n(stopped; the conversation is as it was before)", file=sys.stderr)
        except Exception as error:  # noqa: BLE001 - shown, and the conversation is not lost with it
            if not out_of_memory(error):
                traceback.print_exc()
            told = "there is not enough memory for this" if out_of_memory(error) else f"{type(error).__name__}: {error}"
            print(f"limner: {told}; the conversation is as it was before", file=sys.stderr)

    def say(self, text: str, images: list[Image.Image]) -> None:
        fresh, whole = True, not self.chat.forgotten
        with ProgressBar() as progress:
            for event in self.chat.stream(text, images):
                progress(event)
                if isinstance(event, TextPiece):
                    print(event.text.lstrip() if fresh else event.text, end="", flush=True)
                    fresh = False
                elif isinstance(event, PictureDone):
                    if not fresh:
                        print()
                    self.picture(event.image)
                    fresh = True
                elif isinstance(event, Finished):
                    if not fresh:
                        print()
                    if event.reason == "length":
                        print("(cut: the reply reached its limit)", file=sys.stderr)
        if whole and self.chat.forgotten:
            print("(the conversation has become long: from here on the model is shown the end of it)", file=sys.stderr)

    def picture(self, image: Image.Image) -> None:
        path = free_path("limner-{:03d}.png")
        save_image(image, path)
        columns = min(48, shutil.get_terminal_size().columns)
        print(show(image, self.graphics, columns), end="")
        print(path, flush=True)

    def image(self, path: str) -> None:
        if not path:
            raise ValueError("/image needs a path")
        image = load_image(Path(path).expanduser())
        self.pending.append(image)
        print(f"({path} goes with your next message)")
        if note := self.model.resize_note(image):
            print(f"({note})")

    def retry(self, _: str) -> None:
        with self.chat.popped_turn() as (text, images):
            self.chat.options["seed"] = self.chat.options.get("seed", 0) + 1
            self.say(text, images)

    def save(self, path: str) -> None:
        """Without a path to where it was saved last, or to a new file."""
        self.saved = self.chat.save(path or self.saved or free_path("conversation-{:03d}.jsonl"))
        print(self.saved)

    def adapter(self, text: str) -> None:
        if text == "off":
            for name in self.model.adapters.user:
                self.model.delete_adapter(name)
        elif text:
            folder, weight = split_weight(text)
            name = Path(folder).resolve().name
            if name in self.model.adapters.loaded:  # the same one at another weight
                self.model.set_adapters(*zip(*(self.model.get_active_adapters() | {name: weight}).items(), strict=True))
            else:
                self.model.load_adapter(Path(folder).expanduser(), weight=weight)
        active = self.model.get_active_adapters()
        print("adapters: " + (", ".join(f"{name} {weight:g}" for name, weight in active.items()) or "none"))

    def seed(self, text: str) -> None:
        if not text.lstrip("-").isdigit():
            raise ValueError(f"/seed needs a whole number, not {text!r}")
        self.chat.options["seed"] = int(text)

    def size(self, text: str) -> None:
        if text == "auto":
            height = width = None
        else:
            height, width = parse_size(text)
            self.model.detokenizer.check_size(height, width)
        self.chat.options |= {"height": height, "width": width}

    def steps(self, text: str) -> None:
        if not text.lstrip("-").isdigit():
            raise ValueError(f"/steps needs a whole number, not {text!r}")
        check_steps(int(text))
        self.chat.options["num_inference_steps"] = int(text)


def check_steps(steps: int | None) -> None:
    if steps is not None and steps < 1:
        raise ValueError(f"num_inference_steps is {steps}; it must be at least 1")
