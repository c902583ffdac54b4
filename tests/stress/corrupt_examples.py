"""Corrupt examples among two hundred times as many good ones, in every kind of data set: each is counted, and none else.

A good example has a caption of its own, so that one that is lost, or taken for another, is found by name.
"""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from math import ceil
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import pyarrow
from pyarrow import parquet

from cases import Outcome
from helpers import make_limner, png_bytes
from limner.train.checkpoints import RunState
from limner.train.datasets.check import Report, check
from limner.train.datasets.example import CaptionedPicture, open_pictures
from limner.train.datasets.readers import read
from limner.train.datasets.shards import ShardSource
from limner.train.loop import count_skipped

TITLE = "corrupt examples among 200 times as many good ones: all counted, none else; more than 1 % stops"
CASES = 1000
GOOD = 200
LENGTH = 1024
"""Tokens of the context"""
PNG = png_bytes(0, (16, 16))
SHARES = {"lines": 0.45, "cells": 0.15, "columns": 0.15, "tars": 0.2, "files": 0.05}
"""Of the good examples in each kind of data set; of the corrupt ones the first has half"""
Makes = dict[str, Callable[[Random, str], object]]


def cut(rng: Random) -> bytes:
    """The picture without its end: the last bytes are its end mark and a checksum, without which Pillow reads it."""
    return PNG[: rng.randrange(1, len(PNG) - 24)]


def wrong_bytes(rng: Random) -> bytes:
    return rng.choice((b"", b"\0" * 9, rng.randbytes(200), b"GIF89a" + rng.randbytes(9), cut(rng)))


def huge(_: Random) -> bytes:
    """A picture whose head tells of 20,000 x 20,000 pixels."""
    return PNG[:16] + (20000).to_bytes(4, "big") * 2 + PNG[24:]


def line(**fields: object) -> bytes:
    return json.dumps(fields, ensure_ascii=False).encode()


def told(words: str, role: str = "user", reply: str = "yes") -> bytes:
    return line(messages=[{"role": role, "content": words}, {"role": "assistant", "content": reply}])


def named(name: object, words: object) -> bytes:
    return line(file_name=name, text=words)


BAD_LINES: Makes = {
    "cut": lambda rng, word: (whole := named("good.png", word))[: rng.randrange(1, len(whole))],
    "not UTF-8": lambda rng, word: named("good.png", word).replace(b"bad", b"b\xffd"),
    "no object": lambda rng, word: rng.choice((b"3", b"null", b"[1]", b'"x"')),
    "no layout": lambda rng, word: line(picture_of="good.png", words=word, more=1),
    "missing": lambda rng, word: named(f"none-{word}.png", word),
    "broken": lambda rng, word: named(f"broken{rng.randrange(64)}.png", word),
    "huge": lambda rng, word: named("huge.png", word),
    "too small": lambda rng, word: named("dot.png", word),
    "empty": lambda rng, word: named("good.png", rng.choice((None, "", "  ", 7, [], [None], {"a": 1}, 0.5, True))),
    "elsewhere": lambda rng, word: named(
        rng.choice(("https://x.org/a.png", "../good.png", "/etc/passwd", "C:\\a.png", "a\0b", "x" * 5000)), word
    ),
    "no picture": lambda rng, word: named(rng.choice((None, "", 3, {"bytes": None}, {})), word),
    "a mark too many": lambda rng, word: told(f"<image> {word}"),
    "a picture too many": lambda rng, word: line(
        image=["good.png"] * 2, conversations=[{"from": "human", "value": "<image>"}, {"from": "gpt", "value": word}]
    ),
    "role": lambda rng, word: told(word, role=rng.choice(("robot", "", "observation"))),
    "no reply": lambda rng, word: line(messages=[{"role": "user", "content": word}]),
    "too long": lambda rng, word: told(word * LENGTH),
    "edit": lambda rng, word: line(source="good.png", target=rng.choice(("none.png", "huge.png")), instruction=word),
}
BAD_CELLS: Makes = {
    "more cells": lambda rng, word: ["good.png", word, *["x"] * rng.randrange(1, 5)],
    "fewer cells": lambda rng, word: ["good.png"],
    "empty": lambda rng, word: ["good.png", rng.choice(("", "  "))],
    "missing": lambda rng, word: [f"none-{word}.png", word],
    "broken": lambda rng, word: [f"broken{rng.randrange(64)}.png", word],
}
BAD_COLUMNS: Makes = {
    "broken": lambda rng, word: ({"bytes": wrong_bytes(rng), "path": None}, word),
    "huge": lambda rng, word: ({"bytes": huge(rng), "path": "a.png"}, word),
    "no bytes": lambda rng, word: ({"bytes": None, "path": rng.choice((None, "", "none.png"))}, word),
    "no picture": lambda rng, word: (None, word),
    "no caption": lambda rng, word: ({"bytes": PNG, "path": None}, rng.choice((None, "", " "))),
}
BAD_SAMPLES: Makes = {
    "broken": lambda rng, word: {"png": wrong_bytes(rng) or b"x", "txt": word.encode()},
    "no caption": lambda rng, word: {"png": PNG},
    "no picture": lambda rng, word: {"txt": word.encode()},
    "empty": lambda rng, word: {"jpg": PNG, "txt": b"\n \n"},
    "not UTF-8": lambda rng, word: {"png": PNG, "txt": rng.choice((b"caf\xe9", word.encode("utf-16")))},
    "not JSON": lambda rng, word: {"png": PNG, "json": rng.choice((b"{", b"[1]", b'{"caption": ""}', b""))},
}
BAD_FILES: Makes = {
    "broken": lambda rng, word: {".png": wrong_bytes(rng), ".txt": word.encode()},
    "no caption": lambda rng, word: {".png": PNG},
    "no picture": lambda rng, word: {".txt": word.encode()},
    "empty": lambda rng, word: {".PNG": PNG, ".txt": b""},
    "not UTF-8": lambda rng, word: {".png": PNG, ".caption": rng.choice((b"caf\xe9", word.encode("utf-16")))},
    "one caption for two": lambda rng, word: {".png": PNG, ".jpg": PNG, ".txt": word.encode()},
}


def mixed(rng: Random, good: list[str], bad: int, makes: Makes, made: Counter[str], of: str) -> Iterator[object]:
    """The good examples' captions as texts and ``bad`` corrupt examples, in a random order."""
    order = [*good, *range(bad)]
    rng.shuffle(order)
    kinds = rng.sample(list(makes), len(makes))
    for number, item in enumerate(order):
        if isinstance(item, str):
            yield item
        else:
            kind = kinds[item % len(kinds)]
            made[f"{of}: {kind}"] += 1
            yield makes[kind](rng, f"bad {number}")


def write(folder: Path, rng: Random, good: int, bad: int) -> tuple[dict[str, list[str]], dict[str, int], Counter[str]]:
    """Data sets of each kind in folders of their own: the good examples' captions and the number of bad ones."""
    captions, counts, made = {}, {}, Counter[str]()
    left = bad
    for kind, share in SHARES.items():
        captions[kind] = [f"{kind} {n}" for n in range(round(good * share))]
        counts[kind] = bad - bad // 2 if kind == "lines" else min(left, ceil(bad / 8))
        left -= counts[kind]
        here = folder / kind
        here.mkdir()
        makes = {
            "lines": BAD_LINES,
            "cells": BAD_CELLS,
            "columns": BAD_COLUMNS,
            "tars": BAD_SAMPLES,
            "files": BAD_FILES,
        }
        items = mixed(rng, captions[kind], counts[kind], makes[kind], made, kind)
        WRITERS[kind](here, rng, items)
    return captions, counts, made


def write_pictures(folder: Path, rng: Random) -> None:
    named = {"good.png": PNG, "huge.png": huge(rng), "dot.png": png_bytes(0, (2, 2))}
    for name, data in (named | {f"broken{k}.png": wrong_bytes(rng) for k in range(64)}).items():
        (folder / name).write_bytes(data)


def write_lines(folder: Path, rng: Random, items: Iterator[object]) -> None:
    write_pictures(folder, rng)
    with (folder / "data.jsonl").open("wb") as file:
        for item in items:
            file.write((named("good.png", item) if isinstance(item, str) else item) + b"\n")


def write_cells(folder: Path, rng: Random, items: Iterator[object]) -> None:
    write_pictures(folder, rng)
    with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerows([["file_name", "text"], *(["good.png", i] if isinstance(i, str) else i for i in items)])


def write_columns(folder: Path, rng: Random, items: Iterator[object]) -> None:
    whole = {"bytes": PNG, "path": None}
    kind = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
    schema = pyarrow.schema({"image": kind, "text": pyarrow.string()})
    pairs = [(whole, item) if isinstance(item, str) else item for item in items]
    for shard, begin in enumerate(range(0, len(pairs), 5000)):
        rows = [{"image": image, "text": words} for image, words in pairs[begin : begin + 5000]]
        parquet.write_table(pyarrow.Table.from_pylist(rows, schema), folder / f"{shard:03}.parquet")


def write_tars(folder: Path, rng: Random, items: Iterator[object]) -> None:
    samples = [{"png": PNG, "txt": item.encode()} if isinstance(item, str) else item for item in items]
    for shard, begin in enumerate(range(0, len(samples), 5000)):
        with tarfile.open(folder / f"{shard:03}.tar", "w") as archive:
            for number, sample in enumerate(samples[begin : begin + 5000]):
                # names with dots beside names without
                name = f"v{number // 20}.{number % 20}" if number % 3 else f"{number:06}"
                for ending, data in sample.items():
                    member = tarfile.TarInfo(f"{name}.{ending}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))


def write_files(folder: Path, rng: Random, items: Iterator[object]) -> None:
    for number, item in enumerate(items):
        here = folder / f"{number // 1000:03}"
        here.mkdir(exist_ok=True)
        sample = {".png": PNG, ".txt": item.encode()} if isinstance(item, str) else item
        for ending, data in sample.items():
            (here / f"{number}{ending}").write_bytes(data)


WRITERS = {
    "lines": write_lines,
    "cells": write_cells,
    "columns": write_columns,
    "tars": write_tars,
    "files": write_files,
}


def differences(report: Report, captions: list[str], bad: int, kind: str) -> Iterator[str]:
    """What the report has wrong: an example that is lost, taken for another or told twice, or a count that is not the number."""
    found = Counter(e.captions[0] if isinstance(e, CaptionedPicture) else repr(e) for e in report.examples)
    expected = Counter(captions)
    yield from (f"{kind}: lost in silence or refused: {words}" for words in expected - found)
    yield from (f"{kind}: learned, but corrupt or told twice: {words}" for words in found - expected)
    if len(report.problems) != bad:
        said = Counter(p.why[:60] for p in report.problems)
        yield f"{kind}: {bad} corrupt examples, but {len(report.problems)} are counted: {said.most_common(20)}"


def streamed(folder: Path, bad: int, kind: str) -> Iterator[str]:
    """As `differences`, of the shards as training reads them: each place of an epoch once."""
    source, broken = ShardSource(folder, draw_share=1.0), 0
    for place in range(source.total):
        try:
            open_pictures(source.sample(0, place), lambda image: image)
        except ValueError:
            broken += 1
    if broken != bad:
        yield f"{kind}, streamed: {bad} corrupt examples, but {broken} are left out"


class Left:
    """A batch that left some conversations out."""

    def __init__(self, lines: list[str]) -> None:
        self.left_out = lines


def stops(count: int, bad: int) -> bool:
    """Whether training ends over ``bad`` broken examples among ``count``, in batches of 50."""
    progress = RunState()
    try:
        for seen in range(50, count + 1, 50):
            some = ["x: broken"] * (bad * seen // count - bad * (seen - 50) // count)
            count_skipped("stress", Left(some), progress, seen)
    except ValueError as error:
        return "more than 1%" in str(error)
    return False


def run(cases: int, seed: int) -> Outcome:
    """``cases`` corrupt examples; the check and the streaming reader must count each of them and no other."""
    rng, model, outcome = Random(seed), make_limner(), Outcome(tried=cases)
    with TemporaryDirectory() as place:
        folder = Path(place)
        captions, counts, made = write(folder, rng, cases * GOOD, cases)
        whole = Report()
        for kind in SHARES:
            report = check(read(folder / kind), model.encoder, LENGTH)
            outcome.failures += differences(report, captions[kind], counts[kind], kind)
            whole.examples += report.examples
            whole.problems += report.problems
        outcome.failures += streamed(folder / "tars", counts["tars"], "tars")
        print(f"{len(whole.examples)} good, {len(whole.problems)} left out; made: {dict(sorted(made.items()))}")
    try:
        whole.raise_if_unusable()
    except ValueError as error:
        outcome.failures.append(f"half a per cent stops: {error}")
    whole.problems *= 1 + len(whole.examples) // (99 * max(1, len(whole.problems)))
    try:
        whole.raise_if_unusable()
        outcome.failures.append(f"{len(whole.problems)} corrupt of {len(whole.examples)} good do not stop the check")
    except ValueError as error:
        if "more than 1%" not in str(error) or "The first: " not in str(error):
            outcome.failures.append(f"an unclear end: {error}")
    for count, bad, ends in ((1000, 10, False), (1000, 11, True), (100_000, 1000, False), (100_000, 1100, True)):
        if stops(count, bad) != ends:
            outcome.failures.append(f"{bad} broken of {count} while training: stops is not {ends}")
    return outcome
