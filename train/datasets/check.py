"""Check of a whole data set before a run: what it holds, what is wrong, what is left out."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

from tqdm import tqdm

from ...detokenizer.files import printable
from ...inference.resizing import resize_to_shape
from ...mllm.encoding import StreamEncoder
from ...mllm.messages import normalize_messages
from ..loop import MAX_SKIPPED_SHARE
from . import readers
from .example import CaptionedPicture, Example, Problem, map_pictures, open_picture
from .notes import Notes

MIN_SIDE = 16
"""Pictures with a side of fewer pixels are refused."""
MAX_PIXELS = 32_000_000
"""Pictures of more pixels are refused: they would be decoded again at every use."""

AT_ONCE = 1024
"""Examples that wait for a thread at a time: a set is not read whole before the first is checked."""


@dataclass
class Report:
    examples: list[Example] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    """Heights and widths of the pictures in pixels"""
    tokens: list[int] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)
    """A hash of each example's texts and pixels"""
    notes: Notes = field(default_factory=Notes)
    """What the reader saw beside examples and problems"""

    @property
    def fingerprint(self) -> str:
        """Number of examples and a hash of all of them in their order."""
        whole = hashlib.blake2b("".join(self.digests).encode(), digest_size=16).hexdigest()
        return f"{len(self.digests)} examples, {whole}"

    def table(self) -> str:
        """The report as text: counts, layouts, sizes, tokens, what was not used, and the first ten problems by file and line."""
        kinds = Counter(
            "captioned pictures" if isinstance(e, CaptionedPicture) else "conversations" for e in self.examples
        )
        lines = [f"examples  {len(self.examples)} ({', '.join(f'{n} {kind}' for kind, n in kinds.items()) or 'none'})"]
        if self.sizes:
            areas = sorted(self.sizes, key=lambda s: s[0] * s[1])
            shown = [f"{h} x {w}" for h, w in (areas[0], areas[len(areas) // 2], areas[-1])]
            lines.append(f"pictures  {len(self.sizes)}, height x width from {shown[0]} over {shown[1]} to {shown[2]}")
        if self.tokens:
            lines.append(
                f"tokens    {sum(self.tokens):,}, {median(self.tokens):.0f} an example, at most {max(self.tokens)}"
            )
        lines += self.notes.lines()
        if self.problems:
            lost = sum(problem.pictures for problem in self.problems)
            lines.append(f"left out  {len(self.problems)}" + (f", with {lost} pictures" if lost else ""))
            lines += [f"  {problem}" for problem in self.problems[:10]]
            if len(self.problems) > 10:
                lines.append(f"  and {len(self.problems) - 10} more")
        return "\n".join(map(printable, lines))

    def raise_if_unusable(self) -> None:
        """Raises ValueError when nothing is left, or more than `MAX_SKIPPED_SHARE` of the data set is broken."""
        whole = len(self.examples) + len(self.problems)
        if not self.examples:
            raise ValueError(
                f"nothing to train on: all {whole} examples are left out" if whole else "nothing to train on"
            )
        if len(self.problems) > MAX_SKIPPED_SHARE * whole:
            raise ValueError(
                f"{len(self.problems)} of {whole} examples are left out, more than {MAX_SKIPPED_SHARE:.0%}; "
                f"mend them or take them away. The first: {self.problems[0]}"
            )


def check_dataset(data: str | Path, encoder: StreamEncoder, max_length: int) -> Report:
    """Read and check a whole data set, and print what is found. Raises ValueError for one that cannot be used."""
    print(f"checking {data}", flush=True)
    notes = Notes()
    report = check(readers.read(data, notes), encoder, max_length, notes=notes)
    print(report.table(), flush=True)
    report.raise_if_unusable()
    return report


def check(
    found: Iterable[Example | Problem],
    encoder: StreamEncoder,
    max_length: int,
    threads: int = 8,
    notes: Notes | None = None,
) -> Report:
    """Open every picture and count every token; ``max_length`` is what the backbone's context holds, ``notes`` are the
    reader's."""
    report = Report(notes=notes or Notes())
    checked = partial(check_example, encoder=encoder, max_length=max_length)
    found = iter(found)
    with (
        ThreadPoolExecutor(threads) as pool,
        tqdm(desc="checking", unit=" examples", leave=False, disable=None) as progress,
    ):
        while some := list(islice(found, AT_ONCE)):
            for outcome in pool.map(checked, some):
                progress.update()
                if isinstance(outcome, Problem):
                    report.problems.append(outcome)
                else:
                    example, sizes, tokens, digest = outcome
                    report.examples.append(example)
                    report.sizes += sizes
                    report.tokens.append(tokens)
                    report.digests.append(digest)
    return report


def check_example(
    example: Example | Problem, encoder: StreamEncoder, max_length: int
) -> Problem | tuple[Example, list[tuple[int, int]], int, str]:
    """One example: its pictures' sizes, its length in tokens and a digest of it, or what is wrong with it."""
    if isinstance(example, Problem):
        return example
    try:
        sizes, digest = [], hashlib.blake2b(text_bytes(example), digest_size=16)
        fitted = []
        for source in example.pictures():
            image = open_picture(source)
            if min(image.size) < MIN_SIDE:
                raise ValueError(f"{image.width} x {image.height} pixels is too small: at least {MIN_SIDE} a side")
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(
                    f"{image.width} x {image.height} pixels is too large: at most {MAX_PIXELS:,} in all; make it smaller"
                )
            sizes.append((image.height, image.width))
            digest.update(image.tobytes())
            fitted.append(resize_to_shape(image, encoder.config))
        left = iter(fitted)  # a sample shows the example's pictures in their order
        messages = normalize_messages(map_pictures(example.sample(random.Random(0), 1.0), lambda _: next(left)))
        encoded = encoder.encode(messages, training=True)
        # a drawing's queries have the positions behind its BOI, wherever the conversation ends
        ends = (p.boi_index + 1 + encoder.config.max_drawing for p in encoded.pictures if p.drawn)
        tokens = len(encoded.input_ids)
        if max(tokens, *ends, 0) > max_length:
            raise ValueError(f"{tokens} tokens with {len(sizes)} pictures; this model's context holds {max_length}")
    except (ValueError, OSError) as error:
        return Problem(example.where, str(error), sum(1 for _ in example.pictures()))
    return example, sizes, tokens, digest.hexdigest()


def text_bytes(example: Example) -> bytes:
    """All of an example but its pictures, as bytes to be hashed."""
    if isinstance(example, CaptionedPicture):
        words: list[Any] = [example.captions, example.shares]
    else:
        words = [[m["role"], [p.get("text") for p in m["content"]]] for m in example.messages]
    return json.dumps(words).encode()
