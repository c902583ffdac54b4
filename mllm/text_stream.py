"""Ids to text as they come: whole characters, and nothing that may be the beginning of a stop string."""

from __future__ import annotations

from tokenizers.decoders import DecodeStream
from transformers import PreTrainedTokenizerBase

from .messages import EmittedText


class TextStream:
    """The text of a reply since its last image."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: tuple[str, ...] = ()) -> None:
        self.tokenizer, self.stop = tokenizer, stop
        self.longest_stop = max(map(len, stop), default=1)
        self.begin()

    def begin(self) -> None:
        """Nothing has been written."""
        self.decoder = DecodeStream(skip_special_tokens=False)
        self.ids: list[int] = []
        self.text = ""
        self.given = 0
        """Characters that were given out"""
        self.stopped = False
        """A stop string has come; `text` ends before it"""

    def add(self, token: int) -> str:
        """Takes an id; returns what is certain now and was not given out before."""
        self.ids.append(token)
        # a character may have several tokens: nothing comes of the first ones
        piece = self.decoder.step(self.tokenizer.backend_tokenizer, token) or ""
        looked_at = max(0, len(self.text) - self.longest_stop + 1)
        self.text += piece
        found = [at for stop in self.stop if (at := self.text.find(stop, looked_at)) >= 0]
        self.stopped = bool(found)
        if found:
            self.text = self.text[: min(found)]
        return self._give(len(self.text) - (0 if self.stopped else self.longest_stop - 1))

    def end(self) -> tuple[str, EmittedText | str]:
        """What was still withheld, and all the text, with its ids unless a stop string cut it; begins anew.

        Bytes at the end that make no whole character, as where a limit on tokens falls inside one, are not text.
        """
        if not self.stopped:
            self.text = self.tokenizer.decode(self.ids).rstrip("\ufffd")
        rest, text = self._give(len(self.text)), self.text if self.stopped else EmittedText(self.text, self.ids)
        self.begin()
        return rest, text

    def _give(self, certain: int) -> str:
        begin, self.given = self.given, max(self.given, certain)
        return self.text[begin : self.given]
