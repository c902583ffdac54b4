"""The inputs of `generate`: one conversation or a batch, seeds, and messages in the forms that people hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from PIL import Image

from ..mllm.messages import Message, normalize_messages
from .generation_config import whole_number
from .images import OWNER, PictureLimits, load_image

Messages = str | Sequence[Message]

FIELDS = ("image", "url", "path", "base64", "image_url", "source")
"""Where a part may hold its picture"""
REMARKS = ("type", "detail", "media_type", "mime_type", "cache_control")
"""What a part of a picture may say beside it, none of which matters here"""


class ContextLengthError(ValueError):
    """A conversation with its reply is longer than the context. It is raised before anything is generated."""


def as_batch(messages: Messages | Message | Sequence[Messages]) -> tuple[list[Messages], bool]:
    """A list of conversations, and whether only one was given: a prompt, a message or a list of messages. Strings or lists in a
    list are several.

    Raises ValueError for an empty list, a mixture, and anything else.
    """
    if isinstance(messages, str):
        return [messages], True
    if isinstance(messages, Mapping):
        if "messages" in messages:
            raise ValueError('give the messages of the example alone: generate(example["messages"])')
        return [[dict(messages)]], True
    # no order: a set; an array of one string cannot be gone through, though it says so
    wrong = isinstance(messages, (bytes, set, frozenset, Image.Image)) or getattr(messages, "ndim", None) == 0
    if wrong or not isinstance(messages, Iterable):
        raise ValueError(
            f"a prompt, a list of messages or a list of either is wanted, not {messages!r:.60} ({type(messages).__name__})"
        )
    conversations: list[Any] = list(messages)
    if not conversations:
        raise ValueError("no messages: a conversation needs at least one")
    if all(isinstance(m, Mapping) for m in conversations):
        return [conversations], True
    if any(isinstance(m, Mapping) for m in conversations):
        raise ValueError("a batch is a list of prompts or of conversations, not a mixture of them and single messages")
    for conversation in conversations:
        if not isinstance(conversation, (str, list, tuple)):
            raise ValueError(
                f"a batch is a list of prompts or of conversations, not of {type(conversation).__name__}; a picture is a "
                'part of a message: {"role": "user", "content": [{"type": "image", "image": ...}, ...]}'
            )
    return conversations, False


def as_seed(seed: Any) -> int:
    """A seed as an int. Raises ValueError for what is no whole number."""
    if seed is None:
        raise ValueError("seed is None; choose one, such as random.randrange(2**32), to get the same picture again")
    if type(seed).__name__ == "Generator":
        raise ValueError("seed is a generator; it must be a whole number, from which the noise is made")
    return whole_number("seed", seed)


def seeds_per_row(seed: int | Sequence[int], count: int) -> list[int]:
    """Seeds of a batch: ``seed`` for all, or a list, range, array or tensor of one for each.

    Raises ValueError for another number of them, and for what is no whole number.
    """
    several = isinstance(seed, Iterable) and not isinstance(seed, (str, bytes)) and getattr(seed, "ndim", None) != 0
    if not several:
        return [as_seed(seed)] * count
    if isinstance(seed, (Mapping, set, frozenset)):
        raise ValueError(f"seeds are a list of whole numbers, in the order of the conversations, not {seed!r:.60}")
    seeds = [as_seed(each) for each in seed]  # type: ignore[union-attr]
    if len(seeds) != count:
        raise ValueError(f"{len(seeds)} seeds for {count} conversations")
    return seeds


def load_message_images(messages: Messages, allow_urls: Sequence[str] = (), limits: PictureLimits = OWNER) -> Messages:
    """Messages with parts of other libraries' forms in ours (`load_part`) and with images loaded (`load_image`).

    Raises ValueError for an empty prompt and for what is no message, no picture, a URL of a host that is not in ``allow_urls``
    or beyond the ``limits``.
    """
    if isinstance(messages, str):
        if not messages.strip():
            raise ValueError("the prompt is empty")
        return messages
    if limits.max_pictures is not None and (count := count_pictures(messages)) > limits.max_pictures:
        raise ValueError(f"the messages hold {count} pictures; at most {limits.max_pictures} are read")
    loaded = []
    for index, message in enumerate(messages):
        if isinstance(message, Mapping) and not isinstance(content := message.get("content"), (str, type(None))):
            parts = [content] if isinstance(content, (Mapping, Image.Image)) else content
            if isinstance(parts, (list, tuple)):
                parts = [load_part(part, f"message {index}", allow_urls, limits) for part in parts]
            message = {**message, "content": parts}
        loaded.append(message)
    normalize_messages(loaded)  # what is wrong in them is said here
    return loaded


def count_pictures(messages: Sequence[Message]) -> int:
    """The parts of messages that hold a picture, in any form that `load_part` knows."""
    contents = [message.get("content") for message in messages if isinstance(message, Mapping)]
    parts = [part for content in contents for part in (content if isinstance(content, (list, tuple)) else [content])]
    return sum(
        isinstance(part, Image.Image)
        or (isinstance(part, Mapping) and any(part.get(field) is not None for field in FIELDS))
        for part in parts
    )


def load_part(part: Any, where: str, allow_urls: Sequence[str], limits: PictureLimits = OWNER) -> Any:
    """A part in our form, with its image loaded; one of no form that is known stays for `normalize_messages` to refuse.

    Strings are text, PIL images images. Of parts, transformers' are known (``image``, ``url``, ``path`` or ``base64``), OpenAI's
    (``image_url``, ``input_image``, ``input_text``) and Anthropic's (``source``), with or without a type. Fields that are None
    count as not there: tables hold every field in every row.
    """
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if isinstance(part, Image.Image):
        return {"type": "image", "image": load_image(part)}
    if not isinstance(part, Mapping):
        return part
    given = {name: value for name, value in part.items() if value is not None}
    held = [name for name in FIELDS if name in given]
    kind = given.get("type")
    if kind in ("text", "input_text", "output_text", None) and set(given) - {"type", "cache_control"} == {"text"}:
        return {"type": "text", "text": given["text"]}
    if kind not in ("image", "image_url", "input_image", None) or len(held) != 1:
        return part
    if unknown := sorted(map(str, set(given) - {*held, *REMARKS})):
        raise ValueError(f"{where}: a part with a picture has the unknown field {unknown[0]!r}")
    return {"type": "image", "image": load_image(picture_source(held[0], given[held[0]]), allow_urls, limits)}


def picture_source(field: str, value: Any) -> Any:
    """What `load_image` takes, from the field of a part that holds it."""
    if field == "image_url" and isinstance(value, Mapping):
        return value.get("url")
    if field == "source" and isinstance(value, Mapping):
        field, value = ("base64", value.get("data")) if "data" in value else ("url", value.get("url"))
    if field == "base64" and isinstance(value, (str, bytes)):
        text = value.decode("ascii", "replace") if isinstance(value, bytes) else value
        return text if text.startswith("data:") else f"data:;base64,{text}"
    return value


def recent_messages(messages: Messages, history: int) -> Messages:
    """The last message with the ``history`` exchanges before it (0: all of them), and a system message that stands first."""
    if not history or isinstance(messages, str):
        return messages
    questions = [i for i, message in enumerate(messages) if message.get("role") == "user"]
    if len(questions) <= history + 1:
        return messages
    rules = [message for message in messages[:1] if message.get("role") == "system"]
    return [*rules, *messages[questions[-1 - history] :]]
