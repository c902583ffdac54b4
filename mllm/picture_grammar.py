"""The grammar of a drawn picture in the stream: ``[<shape_…>] [<length_k>] <img>|<vis> block </img>``.

``<img>`` begins k query slots in their order, ``<vis>`` k visual tokens. A model without length tokens has all its queries.
Decoding (`Decoder`) and the plain ``generate()`` of transformers (`ImageTokenLogitsProcessor`) keep to the same rules.
"""

from __future__ import annotations

from dataclasses import dataclass

from .config import LimnerConfig
from .decoding_options import DecodingOptions
from .encoding import nearest_shape
from .picture_tokens import check_mode
from .vocabulary import Vocabulary


@dataclass(frozen=True)
class PictureRules:
    """What a request leaves of the grammar."""

    mode: str = "auto"
    """"queries", "tokens", or "auto" for all that the model has"""
    length: int | None = None
    """Tokens or queries of every picture; None leaves it to the model"""
    shape: int | None = None
    """Index of the only shape that may be announced; None for all"""


def picture_rules(options: DecodingOptions, config: LimnerConfig) -> PictureRules:
    """The rules of a request. Raises ValueError for pictures that the model does not draw."""
    mode, length = options.image_mode, options.image_tokens
    if mode != "auto":
        check_mode(config, mode)
    modes = config.image_modes if mode == "auto" else (mode,)
    if length is not None:
        allowed = sorted({k for own in modes for k in config.lengths_of(own) or (config.num_queries,)})
        if length not in allowed:
            raise ValueError(
                f"image_tokens is {length}; a picture of this model can have {', '.join(map(str, allowed))} of them"
                + (f" with image_mode {mode!r}" if mode != "auto" else "")
            )
    shape = nearest_shape(config.shapes, *options.size) if config.shapes and options.size else None
    return PictureRules(mode, length, shape)


class PictureGrammar:
    """Which tokens may announce and begin a picture."""

    def __init__(self, config: LimnerConfig, vocabulary: Vocabulary) -> None:
        self.config, self.vocabulary = config, vocabulary
        begins = [vocabulary.begins[mode] for mode in config.image_modes]
        self.decisions = [*vocabulary.shapes, *vocabulary.lengths, *begins]
        """What the model may decide between a word and a picture's block"""
        self.length_of = dict(zip(vocabulary.lengths, config.lengths, strict=True))
        """By the length tokens"""
        self.never_chosen = sorted(vocabulary.control - set(self.decisions))

    def modes(self, rules: PictureRules) -> list[str]:
        """The ways to draw that are left."""
        return [mode for mode in self.config.image_modes if rules.mode in ("auto", mode)]

    def first(self, rules: PictureRules) -> list[int]:
        """What may come after words: shapes or, in a model without them, what else announces or begins a picture."""
        shapes = self.vocabulary.shapes
        if not shapes:
            return self._after_shape(rules)
        return list(shapes) if rules.shape is None else [shapes[rules.shape]]

    def following(self, token: int, rules: PictureRules) -> list[int]:
        """What may come after a shape or length token."""
        if token in self.vocabulary.shapes:
            return self._after_shape(rules)
        length = self.length_of[token]
        return [self.vocabulary.begins[m] for m in self.modes(rules) if length in self.config.lengths_of(m)]

    def _after_shape(self, rules: PictureRules) -> list[int]:
        modes, config, vocabulary = self.modes(rules), self.config, self.vocabulary
        announced = {k for mode in modes for k in config.lengths_of(mode) if rules.length in (None, k)}
        ids = [token for token, length in self.length_of.items() if length in announced]
        plain = [m for m in modes if not config.lengths_of(m) and rules.length in (None, config.num_queries)]
        return ids + [vocabulary.begins[mode] for mode in plain]
