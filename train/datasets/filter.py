"""``limner data filter``: a new data set of what passes, and a list of what was dropped and why."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from PIL import Image

from ...detokenizer.files import printable
from ...inference.output import atomic_folder, check_folder
from ..resume import check_outside
from . import pictures, readers
from .example import CaptionedPicture, EmbeddedPicture, Example, Problem, Source, map_pictures, open_picture
from .notes import Notes
from .rules import HASH_SIDE, Rules


def difference_hash(image: Image.Image) -> np.ndarray:
    """64 bits: whether each pixel of a 9 x 8 grey thumbnail is darker than its right neighbour.

    The bits of `imagehash.dhash`, which would bring scipy and PyWavelets along (155 MB).
    """
    small = np.asarray(image.convert("L").resize((HASH_SIDE + 1, HASH_SIDE), Image.Resampling.LANCZOS))
    return (small[:, 1:] > small[:, :-1]).flatten()


def filter_dataset(
    data: str | Path, output: Path, rules: Rules, similarity: Callable[[Image.Image, str], float] | None = None
) -> dict:
    """Copy what passes into ``output`` (pictures and ``metadata.jsonl``), list the rest in ``dropped.jsonl``: all of it, or
    nothing where that is interrupted or fails.

    ``similarity`` stands in for the model named in ``rules``. Returns the counts, and prints what was not used. Raises
    ValueError for an output that is not empty or lies in the data, or no data set.
    """
    check_folder(output)
    check_outside(output, data)
    notes = Notes()
    if similarity is None and rules.min_similarity > -1:
        similarity = clip_similarity(rules.similarity_model)
    counts = {"kept": 0, "dropped": 0}
    hashes: list[np.ndarray] = []
    with atomic_folder(output) as fresh:
        (fresh / "pictures").mkdir()
        with open_text(fresh / "metadata.jsonl") as good, open_text(fresh / "dropped.jsonl") as bad:
            for example in readers.read(data, notes):
                why = example.why if isinstance(example, Problem) else drop_reason(example, rules, hashes, similarity)
                if why is None and not isinstance(example, Problem):
                    good.write(json.dumps(row(example, fresh, counts["kept"]), ensure_ascii=False) + "\n")
                    counts["kept"] += 1
                else:
                    bad.write(json.dumps({"where": example.where, "why": why}, ensure_ascii=False) + "\n")
                    counts["dropped"] += 1
    for line in notes.lines():
        print(printable(line))
    return counts


def open_text(path: Path) -> IO[str]:
    return path.open("w", encoding="utf-8", errors="surrogatepass")


def drop_reason(
    example: Example, rules: Rules, hashes: list[np.ndarray], similarity: Callable[[Image.Image, str], float] | None
) -> str | None:
    """Why an example is dropped; None keeps it, and its pictures' hashes are remembered."""
    found = []
    for source in example.pictures():
        try:
            image = open_picture(source)
        except ValueError as error:
            return str(error)
        short, long = sorted(image.size)
        if short < rules.min_side:
            return f"{image.width} x {image.height} pixels: the shorter side is below {rules.min_side}"
        if rules.max_aspect and long / short > rules.max_aspect:
            return (
                f"{image.width} x {image.height} pixels: aspect ratio {long / short:.2f} is above {rules.max_aspect:g}"
            )
        if similarity and isinstance(example, CaptionedPicture):
            value = max(similarity(image, caption) for caption in example.captions)
            if value < rules.min_similarity:
                return f"picture and caption: similarity {value:.3f} is below {rules.min_similarity:g}"
        if rules.duplicate_bits >= 0:
            mine = difference_hash(image)
            if hashes and (np.stack(hashes) != mine).sum(1).min() <= rules.duplicate_bits:
                return "a duplicate of an earlier picture"
            found.append(mine)
    hashes += found
    return None


def row(example: Example, output: Path, index: int) -> dict[str, Any]:
    """An example as a line of JSON, its pictures copied."""
    names = iter(copy_picture(source, output, f"{index:06d}-{k}") for k, source in enumerate(example.pictures()))
    if isinstance(example, CaptionedPicture):
        shares = {"probabilities": list(example.shares)} if len(set(example.shares)) > 1 else {}
        return {"file_name": next(names), "text": list(example.captions), **shares}
    return {"messages": map_pictures(example.messages, lambda _: next(names))}


def copy_picture(source: Source, output: Path, stem: str) -> str:
    """The picture's name in the new data set; its bytes are copied where it has some."""
    if isinstance(source, (Path, EmbeddedPicture)):
        name, data = (source.name, source.read_bytes()) if isinstance(source, Path) else (source.name, source.read())
        ending = Path(name.rstrip(")")).suffix.lower()
        stem += ending if ending in pictures.SUFFIXES else ".png"
        (output / "pictures" / stem).write_bytes(data)
    else:
        stem += ".png"
        source.open().save(output / "pictures" / stem)
    return f"pictures/{stem}"


def clip_similarity(name: str) -> Callable[[Image.Image, str], float]:
    """Cosine of a picture's and a caption's embedding, by any CLIP-like model of transformers."""
    from transformers import AutoModel, AutoProcessor

    try:
        model, processor = AutoModel.from_pretrained(name).eval(), AutoProcessor.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ValueError(f"no CLIP-like model {name!r}: {error}") from error

    @torch.inference_mode()
    def similarity(image: Image.Image, caption: str) -> float:
        inputs = processor(text=[caption], images=[image], return_tensors="pt", padding="max_length", truncation=True)
        out = model(**inputs)
        return float(torch.nn.functional.cosine_similarity(out.image_embeds, out.text_embeds)[0])

    return similarity
