"""``limner chat``: line editing, pictures inline and saved, slash commands; piped input is read line by line."""

from __future__ import annotations

import shlex
import shutil
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Unpack

from cyclopts import App, CycloptsError
from PIL import Image

from ...inference.adapters import split_adapter
from ...inference.addresses import is_address
from ...inference.chat import Chat
from ...inference.generation_config import GenerationConfig, GenerationOptions
from ...inference.images import load_image
from ...inference.masks import read_mask
from ...inference.model import Limner
from ...inference.output import free_path, save_new_image
from ...inference.progress import ProgressBar
from ...inference.reply import Reply
from ...mllm.events import Event, Finished, PictureDone, TextPiece
from ...mllm.messages import Message
from .draw import DRAWN
from .line_input import read
from .memory import NO_MEMORY, out_of_memory
from .options import CHATTING, SETTINGS, Size, Whole, checked, takes
from .paths import typed_mask, typed_path
from .terminal import printable, raw_output
from .terminal_pictures import show

HELP = """\
Say what you want; the model draws when you ask for a picture.
  /image PATH   show it a picture with your next message
  /mask AREA    your next message edits only this part of that picture, or of the last one: LEFT,TOP,RIGHT,BOTTOM in pixels,
                or the file of a mask (transparent, or else white, where it may change); /mask off takes it back
  /undo         forget the last turn
  /clear        forget all of them
  /retry        answer the last message again, with another seed
  /candidates N answer it N times (4), with the seeds from /seed on; /choose K keeps the K-th in place of the last answer
  /seed N       the seed of the next pictures
  /size HxW     size of the pictures, such as 128x128; /size auto lets the model choose
  /steps N      sampling steps; more is slower and finer
  /guidance X   how strictly a picture follows the words
  /set NAME X   any option of `limner chat --help`, such as /set temperature 0.7; auto is the model's own; alone it lists them
  /adapter DIR  load a LoRA adapter, DIR:0.5 at half its weight; /adapter off takes all off; alone it lists them
  /save PATH    write the conversation and its pictures; /save --overwrite PATH in place of another file
  /load PATH    go on with a conversation that was saved
  /help         this text
  /quit         leave (so does Ctrl-D); Ctrl-C stops a reply"""

FIELDS = {"size": ("height", "width"), "steps": ("num_inference_steps",), "guidance": ("guidance_scale",)}
"""What the short names stand for"""


class Repl:
    def __init__(
        self, model: Limner, options: dict[str, Any], saved: Path | None = None, metadata: bool = True
    ) -> None:
        """``options`` are `Limner.chat`'s, ``saved`` a conversation to go on with, ``metadata`` is that of `save_image`. Raises
        ValueError for a size that the model cannot draw and as `Chat.load` does."""
        self.model, self.metadata = model, metadata
        self.graphics = "none"
        """How pictures are shown (`terminal.graphics`)"""
        self.pending: list[Image.Image] = []
        self.mask: Any = None
        """Of the next message"""
        self.offered: list[Reply] = []
        """Candidates for the place of the last answer"""
        self.answered: Message | None = None
        """That answer"""
        self.saved = saved
        self.chat = Chat.load(saved, model, **options) if saved else Chat(model, **options)
        self.check_size(self.chat.options)
        if saved:
            print(f"({saved}: {self.turns()})")
        self.commands: dict[str, Callable[[str], None]] = {
            "image": self.image,
            "mask": self.set_mask,
            "candidates": self.candidates,
            "choose": self.choose,
            "undo": lambda _: self.chat.undo(),
            "clear": self.clear,
            "retry": self.retry,
            "set": self.set,
            **{name: partial(self.set, prefix=name) for name in ("seed", "size", "steps", "guidance")},
            "adapter": self.adapter,
            "save": self.save,
            "load": self.load,
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
                self.say(line, self.pending, self.mask)
                self.pending, self.mask = [], None
        except BrokenPipeError:  # nobody reads any more: the command ends
            raise
        except (ValueError, OSError) as error:  # OSError: a full disk, a folder without rights
            said = f"{NO_MEMORY}; the conversation is as it was before" if out_of_memory(error) else error
            print(f"limner: {said}", file=sys.stderr)
        except KeyboardInterrupt:
            print("\n(stopped; the conversation is as it was before)", file=sys.stderr)
        except Exception as error:  # noqa: BLE001 - shown, and the conversation is not lost with it
            if not out_of_memory(error):
                traceback.print_exc()
            said = NO_MEMORY if out_of_memory(error) else f"{type(error).__name__}: {error}"
            print(f"limner: {said}; the conversation is as it was before", file=sys.stderr)

    def say(self, text: str, images: list[Image.Image], mask: Any = None) -> None:
        fresh, whole = True, not self.chat.forgotten
        with ProgressBar() as progress:
            for event in self.chat.stream(text, images, mask):
                progress(event)
                if isinstance(event, TextPiece):
                    print(printable(event.text.lstrip() if fresh else event.text), end="", flush=True)
                    fresh = False
                elif isinstance(event, PictureDone | Finished) and not fresh:
                    print()
                    fresh = True
                if isinstance(event, PictureDone):
                    self.picture(event.image)
                elif isinstance(event, Finished) and event.reason == "length":
                    print("(cut: the reply reached its limit)", file=sys.stderr)
        if whole and self.chat.forgotten:
            print("(the conversation has become long: from here on the model is shown the end of it)", file=sys.stderr)

    def picture(self, image: Image.Image) -> None:
        path = save_new_image(image, DRAWN, self.metadata)
        raw_output().write(show(image, self.graphics, columns=min(48, shutil.get_terminal_size().columns)))
        print(path, flush=True)

    def image(self, path: str) -> None:
        if not path:
            raise ValueError("/image needs a path")
        image = load_image(path if is_address(path) else typed_path(path), self.model.allow_urls)
        self.pending.append(image)
        print(f"({path} goes with your next message)")
        if note := self.model.resize_note(image):
            print(f"({note})")

    def set_mask(self, text: str) -> None:
        if text == "off":
            self.mask = None
            return
        if not text:
            raise ValueError("/mask needs LEFT,TOP,RIGHT,BOTTOM or a path")
        picture = self.pending[-1] if self.pending else self.chat.last_picture()
        if picture is None:
            raise ValueError("there is no picture to edit: show one by /image, or have one drawn")
        self.mask = read_mask(typed_mask(text), picture, self.model.allow_urls)
        left, top, right, bottom = self.mask.getbbox()
        print(
            f"(your next message edits what lies in {left},{top},{right},{bottom} of {picture.width} x {picture.height})"
        )

    def candidates(self, text: str) -> None:
        """Shows and saves the pictures of several answers to the last message."""
        count = whole_number_of(text or "4", "the number of candidates")
        with ProgressBar() as progress:

            def shown(event: Event) -> None:
                if event.row == 0:  # they are drawn together
                    progress(event)

            replies = self.chat.candidates(count, callback=shown)
        self.offered, self.answered = replies, self.chat.messages[-1]
        for number, reply in enumerate(replies, 1):
            print(printable(f"{number}. {reply.text}".rstrip()))
            for image in reply.images:
                self.picture(image)
        print(f"(/choose 1 to {count} keeps one of them)")

    def choose(self, text: str) -> None:
        if not self.offered or not self.chat.messages or self.chat.messages[-1] is not self.answered:
            raise ValueError("there is nothing to choose: /candidates N gives answers to the last message")
        number = whole_number_of(text, "the number of a candidate")
        if not 1 <= number <= len(self.offered):
            raise ValueError(f"there is no candidate {number}; there are 1 to {len(self.offered)}")
        self.chat.choose(self.offered[number - 1])
        self.answered = self.chat.messages[-1]
        print(f"(kept {number})")

    def retry(self, _: str) -> None:
        with self.chat.popped_turn() as (text, images):
            self.chat.options["seed"] = self.chat.options.get("seed", 0) + 1
            self.say(text, images)

    def clear(self, _: str) -> None:
        self.chat.clear()
        self.saved = self.mask = None

    def save(self, text: str) -> None:
        """Without a path to where it was saved last, or to a new file."""
        flag, _, rest = text.partition(" ")
        overwrite = flag == "--overwrite"
        path = rest if overwrite else text
        where = typed_path(path) if path else self.saved or free_path("conversation-{:03d}.jsonl")
        try:
            self.saved = self.chat.save(where, overwrite, self.metadata)
        except ValueError as error:
            hint = f": /save --overwrite {where}" if str(error).endswith("or overwrite it") else ""
            raise ValueError(f"{error}{hint}") from None
        print(self.saved)
        if self.pending:
            print("(without the picture that goes with your next message)")

    def load(self, text: str) -> None:
        if not text:
            raise ValueError("/load needs a path")
        if self.chat.messages:
            raise ValueError("this conversation would be lost: /save it, then /clear it")
        path = typed_path(text)
        self.chat, self.mask = Chat.load(path, self.model), None
        self.saved = path
        print(f"({path}: {self.turns()})")

    def turns(self) -> str:
        count = len(self.chat.messages) // 2
        return f"{count} exchange{'' if count == 1 else 's'}"

    def adapter(self, text: str) -> None:
        if text == "off":
            for name in self.model.adapters.user:
                self.model.delete_adapter(name)
        elif text:
            given, folder, weight = split_adapter(text)
            path, loaded = typed_path(folder), self.model.adapters.loaded
            same = [own.name for own in loaded.values() if own.folder == path.resolve() and not own.bundled]
            if given is None and not path.exists() and folder in self.model.adapters.user:
                same = [folder]
            if given is None and same:  # the same one at another weight
                changed = self.model.get_active_adapters() | {same[0]: weight}
                self.model.set_adapters(list(changed), list(changed.values()))
            else:
                self.model.load_adapter(path, given, weight)
        active = self.model.get_active_adapters()
        print("adapters: " + (", ".join(f"{name} {weight:g}" for name, weight in active.items()) or "none"))

    def set(self, text: str, prefix: str = "") -> None:
        """An option's name and value, as on the command line. Raises ValueError for what makes no sense."""
        name, *values = shlex.split(f"{prefix} {text}") or [""]
        flag = name.lstrip("-").replace("_", "-")
        names = FIELDS.get(flag, (flag.replace("-", "_"),))
        if not name:
            print(", ".join(f"{key} {value}" for key, value in self.chat.options.items()))
            return
        own = values == ["auto"] and {*names} <= {"seed", *CHATTING}
        given = dict.fromkeys(names) if own else parse_options([f"--{flag}", *values])
        self.check_size(given)
        # `parse_options` has checked names and types
        self.chat.options = {k: v for k, v in (self.chat.options | given).items() if v is not None}  # type: ignore[assignment]

    def check_size(self, options: Mapping[str, Any]) -> None:
        if options.get("height") is not None:
            self.model.detokenizer.check_size(options["height"], options["width"])


def whole_number_of(text: str, name: str) -> int:
    """Raises ValueError, which calls it ``name``, for what is no whole number."""
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{name} is {text!r:.60}; it must be a whole number") from None


@takes(GenerationConfig, CHATTING, shown=False)
def request(
    *, seed: Whole | None = None, size: Size | None = None, **options: Unpack[GenerationOptions]
) -> dict[str, Any]:
    return ({} if seed is None else {"seed": seed}) | checked(options, size)


def parse_options(words: Sequence[str]) -> dict[str, Any]:
    """Options of a chat, read as the command line reads them. Raises ValueError for mistakes."""
    try:
        return App(default_command=request, help_flags=[], version_flags=[], **SETTINGS)(words)
    except CycloptsError as error:
        raise ValueError(str(error)) from None
