"""Layouts of questions and answers: messages, LLaVA's and ShareGPT's conversations, SEED-X's lists, instructions."""

from __future__ import annotations

import re
from typing import Any

from ....mllm.messages import Message
from ..example import Conversation, Source, chat_message, text
from .record import SIDE_IMAGES, Record, check_list, has_value

ROLES = {"human": "user", "user": "user", "system": "system"} | dict.fromkeys(
    ("gpt", "assistant", "model", "bot", "chatgpt"), "assistant"
)
MARK = re.compile(
    r"(?:<img>)?<\|image_(?P<number>\d+)\|>(?:</img>)?"  # OmniGen, Phi-3: counted from 1
    r"|(?P<name><image_\d+>)"  # MiniCPM-V
    r"|(?:Picture \d+:\s*)?<img>(?P<path>[^<>]+)</img>"  # Qwen-VL
    r"|<image>|<ImageHere>"  # LLaVA and most others, InternLM-XComposer
)
"""Where a picture stands in a text."""
TURN_FIELDS = ("role", "from", "content", "value", "weight", "loss", "train", "id", "turn_id")
LEARNED = ("weight", "loss", "train")
"""What other trainers' turns say of whether they are learned: OpenAI's, ms-swift's and Axolotl's."""
SYSTEM = ("system", "system_prompt")
REQUEST = ("instruction", "question", "query", "prompt")
CONTEXT = ("input", "context")
REPLY = ("output_text", "output", "response", "answer", "completion")
INPUT_IMAGES = ("input_images", *SIDE_IMAGES)
DRAWN = ("output_image", "output_images")


class MarkedPictures:
    """A record's pictures, which marks in its texts call for one by one or by name."""

    def __init__(self, record: Record, *names: str) -> None:
        self.record, self.given = record, record.pictures(*names)
        self.left = dict(self.given)

    def parts(self, words: str, where: str) -> list[dict[str, Any]]:
        """A text as parts: a picture for each mark, the words around them without the spaces at their ends.

        Raises ValueError for a mark without a picture.
        """
        parts, begin = [], 0
        marks = list(MARK.finditer(words))
        if not marks:
            return [text(words)]
        for mark in marks:
            parts += [
                text(words[begin : mark.start()].strip()),
                {"type": "image", "image": self.called_by(mark, where)},
            ]
            begin = mark.end()
        parts.append(text(words[begin:].strip()))
        return [part for part in parts if part.get("text") != ""]

    def called_by(self, mark: re.Match[str], where: str) -> Source:
        if mark["path"]:
            return self.record.open(mark["path"].strip())
        name = mark["name"] or (mark["number"] and str(int(mark["number"]) - 1))
        if name is None:
            return self.next(where)
        if name not in self.given and mark["name"] and "0" in self.given:
            name = str(int(re.sub(r"\D", "", name)))  # a list of pictures, whose marks count from 0
        if name not in self.given:
            raise ValueError(f"{where} holds {mark.group()}, but no picture is called that: more marks than pictures")
        self.left.pop(name, None)
        return self.given[name]

    def next(self, where: str) -> Source:
        if not self.left:
            raise ValueError(
                f"{where} holds more <image> marks than pictures ({len(self.given)}); "
                'a mark that is text itself goes into {"type": "text"} parts of messages without pictures beside them'
            )
        return self.left.pop(next(iter(self.left)))

    def place_rest(self, messages: list[Message]) -> None:
        """Pictures without any mark stand before the first request, as MiniCPM-V and TRL put them.

        Raises ValueError where some are marked and others are not.
        """
        if self.left and len(self.left) < len(self.given):
            raise ValueError(f"{len(self.left)} of {len(self.given)} pictures have no <image> mark")
        if self.left:
            first = next((m for m in messages if m["role"] == "user"), None)
            if first is None:
                raise ValueError(f"{len(self.left)} pictures and no message of the user to stand in")
            first["content"][:0] = [{"type": "image", "image": source} for source in self.left.values()]


def messages(record: Record) -> Conversation:
    """``{"messages": [{"role", "content"}]}``: content is a text or a list of parts; pictures in the parts, or in ``images``
    beside the messages and called for by marks in the texts (LLaMA-Factory, ms-swift) or by empty image parts (TRL)."""
    return conversation(record, record.list("messages"))


def conversations(record: Record) -> Conversation:
    """LLaVA's and ShareGPT's ``{"image", "conversations": [{"from": "human", "value": "<image>\\n…"}, {"from": "gpt", …}]}``;
    MiniCPM-V's has ``role`` and ``content``."""
    return conversation(record, record.list("conversations", "conversation"), strip=True)


def conversation(record: Record, turns: list[Any], strip: bool = False) -> Conversation:
    pictures = MarkedPictures(record, *SIDE_IMAGES)
    told: list[Message] = []
    for index, turn in enumerate(turns):
        where = f"turn {index}"
        role, content = read_turn(turn, record, where)
        if isinstance(content, str):
            parts = pictures.parts(content.strip() if strip else content, where)
            parts = [p for p in parts if p.get("text") != ""] if strip else parts
        else:
            parts = [p for value in check_list(content, "content") for p in part(value, record, pictures, where)]
        told.append(chat_message(role, *parts))
    pictures.place_rest(told)
    return finished(record, told)


def read_turn(turn: Any, record: Record, where: str) -> tuple[str, Any]:
    """Role and content. Raises ValueError for an unknown role, and for a reply that is marked as not to be learned."""
    given = turn.get("role") or turn.get("from") if isinstance(turn, dict) else turn
    role = ROLES.get(str(given).lower())
    if role is None or not isinstance(turn, dict):
        raise ValueError(f"unknown role {given!r:.60}; roles are {', '.join(sorted(ROLES))}")
    if role == "assistant" and any(turn.get(key) is not None and not turn[key] for key in LEARNED):
        raise ValueError(f"{where} is marked as not to be learned: every reply is learned here; leave such ones out")
    content = next((turn[key] for key in ("content", "value") if turn.get(key) is not None), None)
    if not isinstance(content, (str, list, tuple)):
        raise ValueError(f"{where} must have content, a text or a list of parts, not {content!r:.60}")
    record.leave(f"turns: {key}" for key in turn if key not in TURN_FIELDS and has_value(turn[key]))
    return role, content


def part(value: Any, record: Record, pictures: MarkedPictures, where: str) -> list[dict[str, Any]]:
    """A part of a message as parts: text, or a picture in one of the field's forms, OpenAI's and Anthropic's included."""
    fields = {"text": value} if isinstance(value, str) else value if isinstance(value, dict) else {}
    kind, words = fields.get("type"), fields.get("text")
    if kind in ("text", "input_text", None) and isinstance(words, str):
        # with pictures beside the messages marks call for them; else the words are as they are
        return pictures.parts(words, where) if pictures.given else [text(words)]
    given = next((fields[k] for k in ("image", "image_url", "source", "path", "url", "bytes") if fields.get(k)), None)
    if kind in ("image", "image_url", "input_image") or (kind is None and fields.get("image")):
        return [{"type": "image", "image": pictures.next(where) if given is None else record.open(given)}]
    raise ValueError(
        f'a part must be {{"type": "text", "text": …}} or {{"type": "image", "image": …}}, not {value!r:.60}'
    )


def question_list(record: Record) -> Conversation:
    """SEED-X's ``{"image", "data": ["question", "answer", …]}``, the picture before the first question."""
    words = record.list("data")
    if len(words) % 2 or not all(isinstance(w, str) for w in words):
        raise ValueError(f"data must be questions and answers in turn, not {len(words)} entries {words!r:.60}")
    pictures = MarkedPictures(record, *SIDE_IMAGES)
    told = [
        chat_message(("user", "assistant")[k % 2], *pictures.parts(said, f"entry {k}")) for k, said in enumerate(words)
    ]
    pictures.place_rest(told)
    return finished(record, told)


def instruction(record: Record) -> Conversation:
    """Alpaca's ``instruction``, ``input``, ``output``, ``history``; OmniGen2's ``instruction``, ``input_images`` and
    ``output_image`` or ``output_text``; a question or prompt and its answer."""
    if record.value("kto_tag", "label") is False:
        raise ValueError("this reply is marked as a bad one (kto_tag or label is false): every reply is learned here")
    pictures = MarkedPictures(record, *INPUT_IMAGES)
    told: list[Message] = []
    for pair in check_list(record.value("history"), "history") if record.first(("history",)) else []:
        if not (isinstance(pair, (list, tuple)) and len(pair) == 2 and all(isinstance(words, str) for words in pair)):
            raise ValueError(f"history must be pairs of a request and a reply, not {pair!r:.60}")
        told += [
            chat_message(role, *pictures.parts(words, "history"))
            for role, words in zip(("user", "assistant"), pair, strict=True)
        ]
    asked = "\n".join(words for words in (record.text(*REQUEST), record.text(*CONTEXT)) if words)
    told.append(chat_message("user", *pictures.parts(asked, "the request")))
    said = record.text(*REPLY)
    reply = pictures.parts(said, "the reply") if said else []
    reply += [{"type": "image", "image": source} for source in record.pictures(*DRAWN).values()]
    pictures.place_rest(told)
    return finished(record, [*told, chat_message("assistant", *reply)])


def preference(record: Record) -> Conversation:
    """Pairs of a better and a worse reply are refused by name: trained on as conversations, both would be learned."""
    raise ValueError(
        "chosen and rejected are pairs for preference training; a data set here holds replies to be learned"
    )


def finished(record: Record, told: list[Message]) -> Conversation:
    """The conversation with the record's system prompt before it. Raises ValueError where there is nothing to learn."""
    prompt = record.text(*SYSTEM)
    if prompt and told[0]["role"] == "system":
        raise ValueError("a system message and a system field: which one is meant?")
    if "objects" in record.fields:
        raise ValueError(
            "objects holds what ms-swift puts in the places of <bbox> and <ref-object>; write it into the texts"
        )
    for name in ("videos", "video", "audios", "audio"):
        if name in record.fields:
            raise ValueError(f"{name} cannot be learned: a conversation holds texts and pictures")
    if not any(m["role"] == "assistant" and m["content"] for m in told):
        raise ValueError("nothing to learn: no reply of the assistant")
    return Conversation([chat_message("system", text(prompt)), *told] if prompt else told, record.where)
