"""Messages to ids. No user text becomes a control token: contents are tokenized without any added tokens."""

from __future__ import annotations

import itertools
import json
import re
import secrets
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from types import FrameType
from typing import Any

import jinja2
from PIL import Image
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from .config import LimnerConfig
from .glyph_text import find_glyph_text
from .messages import EmittedText, Message, normalize_messages
from .picture_tokens import PictureTokens, tokens_of
from .utf8 import Utf8Table, utf8_table
from .views import View, image_views
from .vocabulary import Vocabulary

IGNORE_INDEX = -100
"""The label that the loss ignores, as in transformers."""
MAX_TEMPLATE_STEPS = 1_000_000
"""Far more than any conversation that fits into a context needs"""
MAX_KEPT_PIECES = 4096
"""Conversations of so many structures keep what the chat template makes of them, and so many short texts their ids"""
SHORT_TEXT = 12
"""Characters of the texts between control tokens that a template writes around every message"""
Spans = list[tuple[str, int | None]]
"""A piece of a template as pairs of text and the added token after it"""


@dataclass(frozen=True)
class Picture:
    """An image of a conversation and where it stands."""

    image: Image.Image
    boi_index: int
    """Index of its BOI in the ids."""
    drawn: bool
    """Whether the assistant drew it; else it is a user's."""
    shape: tuple[int, int]
    """Height and width in pixels."""
    glyph_text: tuple[str, ...] = ()
    """Strings to be written in it, where it is drawn"""
    text_box: tuple[float, ...] | None = None
    """Left, top, right and bottom of where they stand, as fractions of the picture, where that is told"""
    tokens: PictureTokens | None = None
    """What it is drawn by, where it is drawn"""


@dataclass
class Encoded:
    """A tokenized conversation. ``labels`` cover what the model decides: the assistant's text, shape and length tokens, what
    begins its pictures, and ends of turn. Visual tokens have labels of their own (`StreamOutput.codes`)."""

    input_ids: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    views: list[tuple[int, View]] = field(default_factory=list)
    """The index of a view's first slot, and the view."""
    queries: list[int] = field(default_factory=list)
    """The index of the first slot of each block of queries in the main stream (training in the "queries" mode)."""
    pictures: list[Picture] = field(default_factory=list)
    last_request: str = ""
    """The user's text since the last reply"""

    def add(self, ids: Sequence[int], labelled: bool = False) -> None:
        """Appends ids, with themselves as labels or, not ``labelled``, ignored."""
        self.input_ids.extend(ids)
        self.labels.extend(ids if labelled else [IGNORE_INDEX] * len(ids))


@lru_cache(maxsize=4096)
def nearest_shape(shapes: tuple[tuple[int, int], ...], height: int, width: int) -> int:
    """Index of the shape with the closest aspect ratio, of equal ones the closest in size."""
    ratio = height / width
    return min(
        range(len(shapes)),
        key=lambda i: (
            round(max(ratio / (shapes[i][0] / shapes[i][1]), (shapes[i][0] / shapes[i][1]) / ratio), 3),
            abs(shapes[i][0] * shapes[i][1] - height * width),
        ),
    )


def check_template(template: str) -> None:
    """Raises ValueError for a chat template that computes powers: Jinja would do so, for ever, when it compiles it."""
    try:
        powers = any(kind == "operator" and sign == "**" for _, kind, sign in jinja2.Environment().lex(template))
    except jinja2.TemplateSyntaxError as error:
        raise ValueError(f"the chat template is broken: {' '.join(str(error).split()):.300}") from error
    if powers:
        raise ValueError("the chat template computes powers (**), which no template needs: remove that")


@contextmanager
def limited_template_steps() -> Iterator[None]:
    """RuntimeError where a chat template, which may come from anybody, takes more than `MAX_TEMPLATE_STEPS` lines of the code
    that Jinja makes of it: its sandbox has no limit for loops within loops."""
    steps, before = itertools.count(1), sys.gettrace()

    def in_template(frame: FrameType, event: str, argument: Any) -> Any:
        if next(steps) > MAX_TEMPLATE_STEPS:
            raise RuntimeError(f"it takes more than {MAX_TEMPLATE_STEPS:,} steps")
        return in_template

    def on_call(frame: FrameType, event: str, argument: Any) -> Any:
        return in_template if frame.f_code.co_filename == "<template>" else None

    sys.settrace(on_call)
    try:
        yield
    finally:
        sys.settrace(before)


class StreamEncoder:
    """Renders messages with the chat template and tokenizes them.

    Raises ValueError for a tokenizer that is not a fast one or has no chat template.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, config: LimnerConfig, vocabulary: Vocabulary) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise ValueError("Limner needs a fast tokenizer: only there can added tokens be switched off for contents")
        if not tokenizer.chat_template:
            raise ValueError("the tokenizer has no chat template; set tokenizer.chat_template")
        check_template(str(tokenizer.chat_template))
        self.tokenizer, self.config, self.vocabulary = tokenizer, config, vocabulary
        plain_json = json.loads(tokenizer.backend_tokenizer.to_str())
        plain_json["added_tokens"], plain_json["post_processor"] = [], None
        plain_json["truncation"] = plain_json["padding"] = None
        self._plain_tokenizer = Tokenizer.from_str(json.dumps(plain_json))
        codes = vocabulary.codes  # no template writes them, and a pattern of thousands is slow
        added = {n: token for n, token in tokenizer.added_tokens_decoder.items() if token.content and n not in codes}
        # other added tokens are words, which the base vocabulary may have too: Gemma's line breaks
        markers = {
            number
            for number, token in added.items()
            if token.special or (token.content.strip() and token.content in str(tokenizer.chat_template))
        }
        self._never_text = (markers - {tokenizer.unk_token_id}) | vocabulary.control | set(vocabulary.end_of_turn)
        self._kept_pieces: dict[Any, list[int | Spans]] = {}
        self._short_texts: dict[str, list[int]] = {}
        self._template_ids = sorted(added, key=lambda number: -len(added[number].content))
        """The longest first; by the number of their group in the pattern"""
        longest_first = [added[number] for number in self._template_ids]
        self._template_pattern = re.compile(
            "|".join(
                r"\s*" * token.lstrip + f"({re.escape(token.content)})" + r"\s*" * token.rstrip
                for token in longest_first
            )
        )

    @cached_property
    def utf8(self) -> Utf8Table | None:
        """Which tokens keep a reply's bytes UTF-8; None where tokens are no bytes."""
        return utf8_table(self.tokenizer)

    def text_ids(self, text: str) -> list[int]:
        """Ids of a content's text; `EmittedText` keeps the ids it was decoded from.

        Where the base vocabulary itself has a control token, as Unigram's has "<pad>", the text is cut inside it. Raises
        ValueError where that does not help.
        """
        if isinstance(text, EmittedText):
            return list(text.ids)
        # a lone surrogate has no UTF-8 form and the tokenizer would raise; "replace" writes a question mark
        text = text.encode("utf-8", "replace").decode()
        if (kept := self._short_texts.get(text)) is not None:
            return kept
        found = self._plain_tokenizer.encode(text, add_special_tokens=False)
        if self._never_text.isdisjoint(found.ids):
            if len(text) <= SHORT_TEXT and len(self._short_texts) < MAX_KEPT_PIECES:
                self._short_texts[text] = found.ids
            return found.ids
        cuts = [
            begin + 1 for number, (begin, _) in zip(found.ids, found.offsets, strict=True) if number in self._never_text
        ]
        pieces = [text[begin:end] for begin, end in itertools.pairwise([0, *cuts, len(text)])]
        ids = [
            number for piece in pieces for number in self._plain_tokenizer.encode(piece, add_special_tokens=False).ids
        ]
        if left := sorted(self._never_text.intersection(ids)):
            names = ", ".join(self.tokenizer.convert_ids_to_tokens(left))
            raise ValueError(f"the text holds {names}, which this tokenizer cannot keep as plain text")
        return ids

    def spells(self, ids: Sequence[Any], text: str) -> bool:
        """Whether ``ids`` are those of a reply's text (`EmittedText`): in the vocabulary, no control tokens, and its words."""
        if not all(type(token) is int and 0 <= token < len(self.tokenizer) for token in ids):
            return False
        return self._never_text.isdisjoint(ids) and self.tokenizer.decode(ids).rstrip("\ufffd") == text

    def encode(
        self,
        messages: str | Sequence[Message],
        *,
        add_generation_prompt: bool = False,
        training: bool = False,
        images: str = "auto",
        boxes: bool = False,
    ) -> Encoded:
        """Encodes one conversation (`normalize_messages`).

        ``training`` puts the queries of the "queries" mode into the main stream. ``images`` ("auto", "force", "never") and
        ``boxes`` are variables of the chat template, which SEED-X's templates read. Raises ValueError for messages or texts
        that cannot be encoded.
        """
        out = Encoded()
        plain = ""  # text without labels, tokenized in one piece between control tokens, as transformers does
        after_assistant = False
        reply_text = ""  # of the assistant, since its last image

        def flush(labelled: bool = False) -> None:
            nonlocal plain
            if plain:
                out.add(self.text_ids(plain), labelled)
            plain = ""

        messages = normalize_messages(messages)
        parts = [(message["role"], part) for message in messages for part in message["content"]]
        for piece in self._template_pieces(messages, training, add_generation_prompt, images, boxes):
            if not isinstance(piece, int):
                spans = piece
                # the end of turn after a reply is labelled: the model decides it
                ending = after_assistant and any(token in self.vocabulary.end_of_turn for _, token in spans)
                for text, token in spans:
                    plain += text
                    if token is not None:
                        flush(ending)
                        out.add([token], ending)
                        ending = ending and token not in self.vocabulary.end_of_turn
                continue
            role, part = parts[piece]
            if role != "assistant" and after_assistant:
                out.last_request = reply_text = ""
            after_assistant = role == "assistant"
            if part["type"] == "text":
                if after_assistant:
                    reply_text += part["text"]
                elif role == "user":
                    out.last_request += part["text"] + "\n"
            if part["type"] == "text" and not after_assistant and not isinstance(part["text"], EmittedText):
                plain += part["text"]
                continue
            flush()
            if part["type"] == "text":
                out.add(self.text_ids(part["text"]), labelled=after_assistant)
            else:
                glyph_text = find_glyph_text(reply_text, out.last_request) if after_assistant else ()
                self._add_image(out, part, after_assistant, training, glyph_text)
                reply_text = ""
        flush()
        return out

    def _split_added_tokens(self, piece: str) -> Spans:
        """A piece of the template as pairs of text and the added token after it (None at the end)."""
        spans, begin = [], 0
        for found in self._template_pattern.finditer(piece):
            spans.append((piece[begin : found.start()], self._template_ids[(found.lastindex or 0) - 1]))
            begin = found.end()
        return [*spans, (piece[begin:], None)]

    def _add_image(
        self, out: Encoded, part: dict[str, Any], drawn: bool, training: bool, glyph_text: tuple[str, ...]
    ) -> None:
        vocabulary, config, image = self.vocabulary, self.config, part["image"]
        tokens = self._tokens_of(part) if drawn else None
        if drawn and vocabulary.shapes:
            out.add([vocabulary.shapes[nearest_shape(config.shapes, image.height, image.width)]], labelled=True)
        if tokens and config.lengths_of(tokens.mode):
            out.add([vocabulary.lengths[config.lengths.index(tokens.length)]], labelled=True)
        views = image_views(image, config, tiles=not drawn)
        for view in views[:-1]:
            out.add([vocabulary.patch])
            out.views.append((len(out.input_ids), view))
            out.add([*vocabulary.slots[: view.tokens], vocabulary.end_patch])
        shape = image.height, image.width
        out.pictures.append(Picture(image, len(out.input_ids), drawn, shape, glyph_text, part.get("text_box"), tokens))
        seen_as_tokens = config.seen_images == "tokens"
        mode = tokens.mode if tokens else "tokens" if seen_as_tokens else "queries"
        out.add([vocabulary.begins[mode]], labelled=drawn)
        if drawn and training and config.drawn_images == "queries":
            out.queries.append(len(out.input_ids))
            out.add(vocabulary.slots[: config.num_queries])
        elif seen_as_tokens and tokens and tokens.codes and not training:
            out.add([vocabulary.codes[code] for code in tokens.codes])
        else:
            length = tokens.length if seen_as_tokens and tokens else None
            view = replace(views[-1], length=length)
            out.views.append((len(out.input_ids), view))
            out.add(vocabulary.slots[: view.tokens])
        out.add([vocabulary.eoi])

    def _tokens_of(self, part: dict[str, Any]) -> PictureTokens:
        """How an assistant's picture is drawn: as its part or the picture itself says, else by as many queries, or tokens where
        there is nothing else, as the model has. Raises ValueError for a part that says what the model does not draw."""
        if part.get("tokens"):
            part["tokens"].check(self.config)
            return part["tokens"]
        mode = self.config.image_modes[0]
        plain = PictureTokens(mode, (self.config.lengths_of(mode) or (self.config.num_queries,))[-1])
        return (self.config.lengths and tokens_of(part["image"], self.config)) or plain

    def empty_prompt(self) -> Encoded:
        """The chat template around an empty message of a user, up to where the reply begins: nothing is asked for."""
        out = Encoded()
        messages = [{"role": "user", "content": []}]
        for piece in self._template_pieces(messages, True, True, "auto", False):
            assert not isinstance(piece, int)
            for text, token in piece:
                out.add([*self.text_ids(text), *([] if token is None else [token])])
        return out

    def _template_pieces(
        self, messages: list[Message], kept: bool, add_generation_prompt: bool, images: str, boxes: bool
    ) -> list[int | Spans]:
        """The rendered template as its pieces (`_split_added_tokens`) and, between them, the numbers of the contents, in order.

        It depends on the messages' roles and numbers of parts alone, and is ``kept`` in training: a template may write the date.
        """
        structure = tuple((message["role"], len(message["content"])) for message in messages)
        key = (str(self.tokenizer.chat_template), structure, add_generation_prompt, images, boxes)
        pieces = self._kept_pieces.get(key) if kept else None
        if pieces is None:
            pieces = self._render_template(structure, add_generation_prompt, images, boxes)
            if kept and len(self._kept_pieces) < MAX_KEPT_PIECES:
                self._kept_pieces[key] = pieces
        return pieces

    def _render_template(
        self, structure: Sequence[tuple[str, int]], add_generation_prompt: bool, images: str, boxes: bool
    ) -> list[int | Spans]:
        """`_template_pieces`, rendered with random marks in place of contents and split there, so that no content is parsed as
        template."""
        marks = [[secrets.token_hex(12) for _ in range(count)] for _, count in structure]
        masked = [{"role": role, "content": "".join(names)} for (role, _), names in zip(structure, marks, strict=True)]
        try:
            with limited_template_steps():
                text = self.tokenizer.apply_chat_template(
                    masked, tokenize=False, add_generation_prompt=add_generation_prompt, images=images, boxes=boxes
                )
        except Exception as error:  # a template is a program of somebody else's, and fails as one
            said = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(f"the chat template refuses these messages: {said:.300}") from error
        pieces: list[int | Spans] = []
        for number, name in enumerate(itertools.chain.from_iterable(marks)):
            before, found, text = text.partition(name)
            if not found or name in text:
                raise ValueError("the chat template drops, repeats or reorders a message's content")
            pieces += [self._split_added_tokens(before), number]
        return [*pieces, self._split_added_tokens(text)]
