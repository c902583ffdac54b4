"""How a picture was drawn, as text in its PNG file: enough to draw it again.

Pillow has the texts of a PNG in ``image.info``. There a drawn picture holds its own from the beginning, as JSON under the key
"limner"; `png_texts` writes it into the file as an iTXt chunk of that key, which holds UTF-8, and once more under "parameters" in
the form of the Stable Diffusion web UI (AUTOMATIC1111), which many tools show. Pictures that are read lose it
(`images.load_image`), so that nothing made of them says that it was drawn so.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from importlib import metadata
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ..mllm.messages import normalize_messages
from ..mllm.picture_tokens import KEY as TOKENS_KEY
from ..mllm.picture_tokens import tokens_text
from .generation_config import GenerationConfig
from .images import load_as
from .inputs import Messages

KEY = "limner"
"""Of the text in ``image.info`` and in the file"""
FORMAT = 1
MAX_CHARACTERS = 1 << 24
"""A longer text is not read"""
DRAWING = ("height", "width", "num_inference_steps", "guidance_scale", "sampler")
"""Options that are always said; others where they were given"""
UNSAID = ("max_images", "history", "partial_images")
"""Options that change nothing in a picture that is drawn"""
FLAGS = {"num_inference_steps": "steps", "guidance_scale": "guidance"}
"""The short names on the command line"""


@dataclass(frozen=True)
class PictureMetadata:
    """How a picture was drawn. Where ``single_prompt``, the same model gives it again by ``model.generate(metadata.prompt,
    seed=metadata.seed, adapters=metadata.adapters, **metadata.options).images[metadata.index]``."""

    prompt: str
    """The last words of the user"""
    single_prompt: bool
    """Whether these were the whole request: no other message and no picture"""
    plan: str
    """The words that stood just before the picture in the reply"""
    index: int
    """Of the picture in its reply, from 0"""
    seed: int
    options: dict[str, Any]
    """Fields of `GenerationConfig`: sizes, steps, guidance and sampler as they were, and all others that were given"""
    adapters: dict[str, float]
    """Their weights: what `Limner.generate` takes"""
    model: str
    """Its name"""
    fingerprint: str | None
    """Of the model's weights (`Adapters.fingerprint`), where it was known"""
    version: str
    """Limner's"""
    backend: str = "limner"
    """"sd3" where a diffusers folder of SD3 drew it by its own text encoders (``limner draw --backend sd3``)"""

    def to_json(self) -> str:
        return json.dumps({"format": FORMAT, **asdict(self)}, ensure_ascii=False)

    def of_picture(self, image: Image.Image, plan: str, index: int) -> PictureMetadata:
        """That of a picture of the same reply, which has come after these words as the one of this ``index``."""
        options = {**self.options, "height": image.height, "width": image.width}
        return replace(self, plan=plan.strip(), index=index, options=options)

    def attach(self, image: Image.Image) -> None:
        """Lets the picture say it."""
        image.info[KEY] = self.to_json()

    @classmethod
    def from_json(cls, text: str, name: str = "the picture") -> PictureMetadata:
        """Raises ValueError, which calls the picture ``name``, for text that `to_json` did not write."""
        said = f"{name}: what it says under {KEY!r} is not how it was drawn"
        if len(text) > MAX_CHARACTERS:
            raise ValueError(f"{said}: it has {len(text):,} characters, more than {MAX_CHARACTERS:,}")
        try:
            values = json.loads(text, parse_constant=finite, parse_float=finite)
        except (ValueError, RecursionError) as error:  # no JSON, a number of 10,000 digits, lists in lists
            raise ValueError(f"{said}: {str(error)[:200]}") from None
        names = {field.name for field in fields(cls)}
        if not isinstance(values, dict) or values.pop("format", None) != FORMAT or set(values) != names:
            raise ValueError(f"{said}: expected format {FORMAT} with {', '.join(sorted(names))}")
        for field, kind in KINDS.items():
            if type(values[field]) not in kind:
                raise ValueError(f"{said}: {field} is {values[field]!r:.60}")
        if not all(type(weight) in (int, float) for weight in values["adapters"].values()) or values["index"] < 0:
            raise ValueError(f"{said}: index or weights of adapters make no sense")
        try:
            config = GenerationConfig().updated(values["options"])
        except ValueError as error:
            raise ValueError(f"{said}: {str(error)[:200]}") from None
        values["options"] = {option: getattr(config, option) for option in values["options"]}
        if missing := [option for option in DRAWING if values["options"].get(option) is None]:
            raise ValueError(f"{said}: it has no {missing[0]}")
        return cls(**values)

    def parameters(self) -> str:
        """The prompt and the options as the Stable Diffusion web UI writes them; its sizes are width x height."""
        options = self.options
        said = {
            "Steps": options["num_inference_steps"],
            "Sampler": options["sampler"].capitalize(),
            "CFG scale": f"{options['guidance_scale']:g}",
            "Seed": self.seed,
            "Size": f"{options['width']}x{options['height']}",
            "Model": self.model,
            "Version": f"limner {self.version}",
        }
        return f"{self.prompt}\n" + ", ".join(f"{name}: {value}" for name, value in said.items())

    def command(self) -> str | None:
        """The command that draws the picture again with the same model and adapters. None where there is none: `limner draw`
        takes a single prompt and gives the first picture."""
        options = dict(self.options)
        options.pop("keep", None)  # of a picture that was edited
        if not self.single_prompt or self.index or options.pop("boxes", False) or options.get("images") == "never":
            return None
        if options.pop("images", "auto") == "force":
            options["max_new_tokens"] = 1  # the reply began with the picture: draw forces one after so few words
        flags: list[tuple[str, Any]] = [("backend", self.backend)] if self.backend != "limner" else []
        flags += [("model", self.model), ("seed", self.seed)]
        flags += [("size", f"{options.pop('height')}x{options.pop('width')}")]
        for name, value in options.items():
            # what takes several words is repeated, a pair of numbers is one value
            flags += [(name, word) for word in value] if name == "stop" else [(name, value)]
        flags += [("adapter", f"{name}:{weight!r}") for name, weight in self.adapters.items()]
        words = [word for name, value in flags for word in flag_words(name, value)]
        told = ["--", self.prompt] if self.prompt.startswith("-") else [self.prompt]
        return shlex.join(["limner", "draw", *words, *told] if told[1:] else ["limner", "draw", *told, *words])

    def describe(self) -> str:
        """All of it, one on each line, for a reader."""
        weights = f" (weights {self.fingerprint[:12]})" if self.fingerprint else ""
        adapters = ", ".join(f"{name} {weight:g}" for name, weight in self.adapters.items())
        lines = {
            "prompt": self.prompt,
            "plan": self.plan or "none",
            "picture of its reply": self.index + 1,
            "model": f"{self.model}{weights}",
            "adapters": adapters or "none",
            "seed": self.seed,
            **{name: ", ".join(map(str, as_tuple(value))) for name, value in self.options.items()},
            "limner": self.version,
        }
        # words of several lines are indented, so that none of them looks like one of ours
        return "\n".join(f"  {name:22} " + f"\n{'':25}".join(str(value).split("\n")) for name, value in lines.items())


KINDS: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys(("prompt", "plan", "model", "version", "backend"), (str,)),
    **dict.fromkeys(("index", "seed"), (int,)),
    **dict.fromkeys(("options", "adapters"), (dict,)),
    "single_prompt": (bool,),
    "fingerprint": (str, type(None)),
}
"""The types of the fields in JSON"""


def finite(text: str) -> float:
    """A number of JSON, which has no NaN and no infinity, though Python reads them. Raises ValueError for these."""
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text:.20} is no finite number")
    return value


def flag_words(name: str, value: Any) -> list[str]:
    """A flag of the command line with its value, which may begin with a dash."""
    flag = f"--{FLAGS.get(name, name).replace('_', '-')}"
    texts = [str(each) for each in as_tuple(value)]
    return [f"{flag}={texts[0]}"] if texts[0].startswith("-") else [flag, *texts]


def as_tuple(value: Any) -> tuple[Any, ...]:
    """The values of an option, of which most have one."""
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


@cache
def installed_version() -> str:
    """Limner's, "unknown" for a checkout that is not installed."""
    try:
        return metadata.version("limner")
    except metadata.PackageNotFoundError:
        return "unknown"


def request_metadata(
    conversation: Messages,
    seed: int,
    config: GenerationConfig,
    options: Mapping[str, Any],
    adapters: Mapping[str, float],
    model: str,
    fingerprint: str | None,
) -> PictureMetadata:
    """What is known of the pictures of a reply before they are drawn (`PictureMetadata.of_picture`).

    The pictures of the ``conversation`` are loaded; ``config`` is what the ``options`` came to that were given.
    """
    given = (name for name, value in options.items() if value is not None and name not in UNSAID)
    said = {name: getattr(config, name) for name in (*DRAWING, *given)}
    words = last_words(conversation)
    return PictureMetadata(*words, "", 0, seed, said, dict(adapters), model, fingerprint, installed_version())


def last_words(messages: Messages) -> tuple[str, bool]:
    """The last words of the user in a conversation whose pictures are loaded, and whether they are all that it holds."""
    conversation = normalize_messages(messages)
    own = [message["content"] for message in conversation if message["role"] == "user"]
    texts = [part["text"] for part in (own[-1] if own else []) if part["type"] == "text"]
    return "\n".join(texts), len(conversation) == len(own) == len(texts) == len(own[-1]) == 1


def png_texts(image: Image.Image) -> PngInfo:
    """What a picture says of how it was drawn, for ``image.save(path, pnginfo=...)``; nothing where it says nothing. Raises
    ValueError as `read_metadata` does."""
    texts, said = PngInfo(), read_metadata(image)
    if said is not None:
        for key, text in ((KEY, said.to_json()), ("parameters", said.parameters())):
            # a lone surrogate, which UTF-8 cannot express, is written as in JSON
            texts.add_itxt(key, text.replace("\0", "").encode("utf-8", "backslashreplace"))
    if (tokens := tokens_text(image)) is not None:
        texts.add_itxt(TOKENS_KEY, tokens)
    return texts


def read_metadata(source: Any, allow_urls: Sequence[str] = ()) -> PictureMetadata | None:
    """How a picture was drawn, whatever `load_image` reads, as it says itself; None for one that says nothing.

    No pixel is decoded. Anybody can write anything into a file: it is checked to make sense, not to be true. Raises ValueError
    for what is no picture and for text under our key that makes no sense.
    """
    return load_as(metadata_of, source, allow_urls)


def metadata_of(image: Image.Image, name: str) -> PictureMetadata | None:
    """As `read_metadata`, for a PIL image; ``name`` is what errors call it."""
    text = image.info.get(KEY)
    if text is None:
        return None
    if not isinstance(text, str):
        raise ValueError(f"{name}: what it says under {KEY!r} is {type(text).__name__}, not text")
    return PictureMetadata.from_json(text, name)
