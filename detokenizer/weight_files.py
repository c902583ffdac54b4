"""Which files of a folder hold a part's weights: whole or in shards, full or a variant, by transformers' and diffusers' names.

``model.safetensors``, ``model-00001-of-00002.safetensors`` with ``model.safetensors.index.json``; of a variant
``model.fp16.safetensors``, ``model.fp16-00001-of-00002.safetensors`` with ``model.safetensors.index.fp16.json``.
"""

from __future__ import annotations

import json
import re
import warnings
from collections import defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path, PurePosixPath

STEMS = ("model", "diffusion_pytorch_model")
"""transformers' name for a part's weights, and diffusers'"""
OTHERS = ("stream", "adapter_model", "modules_to_save", "extra")
"""Further files of weights that Limner writes; those have no variants"""
NAME = re.compile(
    rf"(?P<stem>{'|'.join((*STEMS, *OTHERS))})"
    r"(?:(?:\.(?P<variant>[\w]+))?(?P<shard>-\d+-of-\d+)?\.safetensors|\.safetensors\.index(?:\.(?P<indexed>[\w]+))?\.json)"
)
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
UNREAD_FOLDERS = ("onnx", "openvino", "flax", "original", "metal")
"""Of a model on the hub: the same weights in forms that Limner does not read"""


def split_name(name: str) -> tuple[str, str | None, bool] | None:
    """Stem, variant (None: the full weights) and whether it is a shard or an index, of a weights' file; None for another file."""
    if not (found := NAME.fullmatch(name)):
        return None
    return found["stem"], found["variant"] or found["indexed"], bool(found["shard"]) or name.endswith(".json")


def find_weights(folder: Path, variant: str | None = None) -> tuple[list[Path], str | None]:
    """The files of a part's weights and the variant that they are, None for the full ones.

    A ``variant`` is taken where it is asked for and there, else the full weights, else, with a warning, the only variant. Raises
    ValueError for a folder without weights or with several variants alone, for an index that names files outside of the folder
    and for shards that are missing.
    """
    sets: dict[str | None, Path] = {}
    for path in sorted(folder.glob("*")):
        name = split_name(path.name)
        if name is None or name[0] not in STEMS or (name[2] and path.suffix != ".json"):
            continue
        if name[1] not in sets or not name[2]:  # one file before shards, as transformers has it
            sets[name[1]] = path
    if not sets:
        raise ValueError(no_weights(folder))
    if not {variant, None} & set(sets) and len(sets) > 1:
        raise ValueError(
            f"{folder} holds variants of the weights alone: choose one by variant, {' or '.join(map(str, sets))}"
        )
    chosen = variant if variant in sets else None if None in sets else next(iter(sets))
    path = sets[chosen]
    if chosen not in (variant, None):
        warnings.warn(f"{folder} has no full weights, but the variant {path.name}, which is read")
    return (shard_files(path) if path.suffix == ".json" else [path]), chosen


def no_weights(folder: Path) -> str:
    """What to say of a folder that holds none."""
    pickles = sorted(path.name for path in folder.glob("*") if path.suffix in PICKLES)
    if pickles:
        return (
            f"{folder} holds {pickles[0]}, a pickle, which could run code and is not read: load it with the library that wrote "
            "it, where that does no harm, and save it as safetensors (save_pretrained)"
        )
    stray = sorted(path.name for path in folder.glob("*.safetensors"))
    why = f"; it holds {stray[0]}, a shard without its index, or not named as weights are" if stray else ""
    return f"no such file: {folder / 'model.safetensors'} (only safetensors are read){why}"


def shard_files(index: Path) -> list[Path]:
    """The files that an index of weights names. Raises ValueError for one that is not in its folder, or is missing."""
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        outside = [name for name in names if Path(name).name != name]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{index} is no index of weights: {error}") from error
    if outside:
        raise ValueError(f"{index} names {outside[0]!r}, which is not a file of this folder")
    if missing := [name for name in names if not (index.parent / name).is_file()]:
        more = f" and {len(missing) - 1} more" if missing[1:] else ""
        raise ValueError(
            f"{index} names {missing[0]}{more}, which is missing: the download or the copy is not complete"
        )
    return [index.parent / name for name in names]


def files_to_fetch(names: Sequence[str], variant: str | None = None) -> list[str]:
    """Of a repository's files those that Limner reads: each part's weights once, as `find_weights` would choose them, no pickles,
    no checkpoints of a whole pipeline in one file, no other frameworks' forms."""
    kept, sets = [], defaultdict(list)
    for name in names:
        path = PurePosixPath(name)
        if any(part in UNREAD_FOLDERS for part in path.parts[:-1]):
            continue
        if found := split_name(path.name):
            sets[path.parent, found[0]].append((name, found[1], found[2]))
        elif path.suffix in (".json", ".txt", ".jinja", ".model"):
            kept.append(name)
    for files in sets.values():
        variants = {own for _, own, _ in files}
        wanted: Collection[str | None] = {variant} & variants or {None} & variants or variants
        for own in wanted:
            whole = [name for name, of, sharded in files if of == own and not sharded]
            kept += whole or [name for name, of, _ in files if of == own]
    return sorted(kept)
