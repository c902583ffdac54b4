"""Strict reading of weights and configurations from a folder or the hub."""

from __future__ import annotations

import glob
import json
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from .weight_files import files_to_fetch, find_weights

MAX_JSON_BYTES = 200_000_000
"""The largest tokenizers have a fifth of that"""


def load_strict(model_class: Any, folder: Path, variant: str | None = None, **options: Any) -> Any:
    """``from_pretrained`` of a transformers or diffusers class that neither ignores weights nor initialises missing ones.

    ``variant`` is `find_weights`'. Raises ValueError for keys that are missing, without a place or of another shape, naming them,
    for files that are missing or cannot be read, for weights that are not safetensors and for configurations that name code to
    run.
    """
    read_part_config(folder)
    _, variant = find_weights(folder, variant)
    try:
        with quiet_bars():
            model, info = model_class.from_pretrained(
                folder,
                output_loading_info=True,
                use_safetensors=True,
                local_files_only=True,
                variant=variant,
                **options,
            )
    except Exception as error:  # transformers and diffusers raise whatever their code meets
        raise ValueError(f"{folder} cannot be read: {in_a_line(error)}") from error
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        if found := sorted(map(str, info.get(what) or [])):
            raise ValueError(f"{folder}: {what.replace('_', ' ')}: {', '.join(found[:3])} ({len(found)} in all)")
    return model


@contextmanager
def quiet_bars() -> Iterator[None]:
    """transformers shows no progress bars where standard error is no terminal, such as the log of a program."""
    from transformers.utils import logging

    if not logging.is_progress_bar_enabled() or (sys.stderr is not None and sys.stderr.isatty()):
        yield
        return
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.enable_progress_bar()


def stored_dtype(folder: Path, variant: str | None = None) -> torch.dtype | None:
    """The precision of the first tensor of a part's weights (`find_weights`)."""
    files, _ = find_weights(folder, variant)
    return next((tensor.dtype for path in files for tensor in load_tensors(path).values()), None)


def load_weights(folder: Path, variant: str | None = None) -> dict[str, torch.Tensor]:
    """A part's tensors (`find_weights`), memory-mapped. Raises ValueError as `find_weights` and `load_tensors` do."""
    files, _ = find_weights(folder, variant)
    return {name: tensor for path in files for name, tensor in load_tensors(path).items()}


def load_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file, memory-mapped. Raises ValueError for a file that is missing or cannot be read."""
    if not path.exists():
        raise ValueError(f"no such file: {path} (only safetensors are read)")
    check_file(path)
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def read_json(path: Path, keys: Collection[str] | None = None) -> dict[str, Any]:
    """A JSON file with an object. Raises ValueError for a file that holds none, and for a key that is not among ``keys``."""
    if not path.exists():
        raise ValueError(f"no such file: {path}")
    check_file(path)
    if path.stat().st_size > MAX_JSON_BYTES:
        raise ValueError(f"{path} has {path.stat().st_size:,} bytes, more than the limit of {MAX_JSON_BYTES:,}")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # ValueError: no JSON, no UTF-8, a number of too many digits
        raise ValueError(f"{path} is not JSON: {in_a_line(error)}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds a {type(values).__name__}, not keys and values")
    if unknown := sorted(set(values) - set(values if keys is None else keys)):
        raise ValueError(f"{path}: unknown keys {', '.join(unknown)}")
    return values


def check_types(values: Mapping[str, Any], annotated: Any, path: Path) -> None:
    """Raises ValueError for a value of the wrong type for its field of a dataclass or parameter of a function, and for numbers
    that are not finite."""
    hints = get_type_hints(annotated)
    for name, value in values.items():
        if name in hints and not is_of_type(value, hints[name]):
            raise ValueError(
                f"{path}: {name} is {value!r:.60}, which is no {annotated.__annotations__.get(name, hints[name])}"
            )


def is_of_type(value: Any, hint: Any) -> bool:
    """Whether a value of JSON is of this type; a list is a tuple, true is no number, and a whole number is a float."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(is_of_type(value, one) for one in inner)
    if origin is tuple:
        if not isinstance(value, list):
            return False
        kinds = inner[:1] * len(value) if inner[1:] == (...,) else inner
        return len(kinds) == len(value) and all(map(is_of_type, value, kinds))
    if origin is dict:
        return isinstance(value, dict)
    if hint is float:
        return type(value) in (int, float) and abs(value) <= sys.float_info.max
    if hint in (int, bool, str):
        return type(value) is hint
    return value is None if hint is type(None) else True


def in_a_line(error: BaseException) -> str:
    """What another library says, in one printable line that is not too long."""
    said = " ".join(str(error).split()) or type(error).__name__
    return f"{printable(said):.600}"


@contextmanager
def refusing(folder: Path) -> Iterator[None]:
    """Whatever the files of somebody's ``folder`` bring about in the body is a ValueError of one printable line."""
    try:
        yield
    except Exception as error:  # from its JSON to its weights all is a stranger's
        said = str(error)
        if isinstance(error, ValueError) and said.isprintable() and len(said) < 1000:
            raise
        where = "" if isinstance(error, ValueError) else f"{folder} cannot be read: {type(error).__name__}: "
        raise ValueError(f"{where}{in_a_line(error)}") from error


def printable(text: str) -> str:
    """With escapes in place of what would steer a terminal: names in a file may be anybody's."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def check_file(path: Path) -> None:
    """Raises ValueError for what is there and no regular file: a pipe would be waited for, a device read without end."""
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is no regular file")


def check_files(folder: Path) -> None:
    """`check_file` for all in a folder but its folders."""
    for path in folder.iterdir():
        if not path.is_dir():
            check_file(path)


def read_part_config(folder: Path, keys: Collection[str] | None = None) -> dict[str, Any]:
    """``config.json`` of a model's part. Raises ValueError as `read_json` does, and when it names code to run."""
    config = read_json(folder / "config.json")
    check_files(folder)
    if named := names_of_code(config):
        raise ValueError(
            f"{folder / 'config.json'} names code of its own to run ({named}): Limner runs none that came with weights"
        )
    return config if keys is None else read_json(folder / "config.json", keys)


def names_of_code(config: Any) -> str | None:
    """The first key, at any depth, by which a configuration names Python code or kernels of the hub; None without one."""
    if isinstance(config, list):
        return next(filter(None, map(names_of_code, config)), None)
    if not isinstance(config, dict):
        return None
    for key, value in config.items():
        # "sdpa" is an implementation of transformers' own, "owner/kernel" one that it would download and run
        if key == "auto_map" or ("implementation" in key and "/" in str(value)):
            return str(key)
    return names_of_code(list(config.values()))


def build_on_meta(make: Callable[[], Any], where: object) -> Any:
    """The result of ``make`` on the meta device, without memory for its weights. Raises ValueError for impossible sizes."""
    try:
        with torch.device("meta"):
            return make()
    except (RuntimeError, ZeroDivisionError, TypeError) as error:
        raise ValueError(f"{where}: a configuration that makes no sense: {error}") from error


def mismatched_keys(weights: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> list[str]:
    """Names that only one of the two has, or that have another shape in it, sorted."""
    return sorted(
        f"{printable(name):.200}"
        for name in expected.keys() | weights.keys()
        if name not in weights or name not in expected or weights[name].shape != expected[name].shape
    )


def check_state_dict(weights: Mapping[str, torch.Tensor], module: nn.Module, where: object) -> None:
    """Raises ValueError unless ``weights`` are what ``module`` (on the meta device, say) is made of, naming what is not."""
    expected = module.state_dict()
    if wrong := mismatched_keys(weights, expected):
        has, needs = (tuple(d[wrong[0]].shape) if wrong[0] in d else "missing" for d in (weights, expected))
        raise ValueError(
            f"{where} does not fit its configuration: {wrong[0]} is {has}, expected {needs} ({len(wrong)} in all)"
        )


def load_module(part: type[nn.Module], config_class: type[Any], folder: Path, variant: str | None = None) -> Any:
    """The module ``part(config_class(**config))`` with the weights of its folder.

    Raises ValueError as `load_strict` does, and for unknown keys of the configuration.
    """
    options = read_part_config(folder, config_class.__dataclass_fields__)
    check_types(options, config_class, folder / "config.json")
    # copied: a mapped file must not be overwritten, and a model may be saved into the folder it came from
    weights = {name: value.clone() for name, value in load_weights(folder, variant).items()}
    module = build_on_meta(lambda: part(config_class(**options)), folder)
    check_state_dict(weights, module, folder)
    module.load_state_dict(weights, assign=True)
    return module


def save_module(module: Any, folder: Path) -> None:
    """Writes what `load_module` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(asdict(module.config), indent=1) + "\n", encoding="utf-8")
    save_file({k: v.contiguous() for k, v in module.state_dict().items()}, folder / "model.safetensors")


def write_source(folder: Path, source: str, **options: Any) -> None:
    """Writes a ``source.json`` that names where a part's weights are, in place of a copy."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "source.json").write_text(json.dumps({"source": source, **options}) + "\n", encoding="utf-8")


def resolve_folder(folder: Path, variant: str | None = None) -> Path:
    """Where a part's weights are: its folder, or the source that is named there. Raises ValueError as `resolve_source` does."""
    if not (folder / "source.json").exists():
        return folder
    return resolve_source(str(read_json(folder / "source.json").get("source")), variant=variant)


def resolve_source(source: str | Path, revision: str | None = None, variant: str | None = None) -> Path:
    """A folder, or the downloaded snapshot of a hub id (`from_hub`). Raises ValueError for what is neither."""
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    if str(source).count("/") == 1 and not str(source).startswith((".", "/", "~")):
        return from_hub(str(source), revision, variant)
    raise ValueError(f"no such folder: {source}")


def from_hub(name: str, revision: str | None = None, variant: str | None = None) -> Path:
    """The local snapshot of a hub id at a ``revision`` (branch, tag or commit; the main branch by default), from the cache where
    the hub cannot be reached; of the weights those that `find_weights` chooses. Raises ValueError when there is none."""
    from huggingface_hub import HfApi, snapshot_download

    try:
        # not list_repo_files, which tries again for 23 seconds where there is no network
        files = [file.rfilename for file in HfApi().model_info(name, revision=revision or "main").siblings or ()]
        patterns = [glob.escape(file) for file in files_to_fetch(files, variant)]
    except Exception:  # noqa: BLE001 - whatever it is, the download meets it too, or finds the cache
        patterns = ["*.json", "*.safetensors", "*.txt", "*.jinja", "*.model"]
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except Exception as error:  # the hub client raises a dozen unrelated types
        reason = hub_failure(error, revision)
        raise ValueError(f"{name!r} is neither a folder nor a model that the hub gave: {reason}") from error


def hub_failure(error: Exception, revision: str | None) -> str:
    """In one line, why the hub client raised ``error`` and what to do; its own messages are several lines of URLs."""
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return "its owner has to grant access: ask on its page, then log in with `hf auth login`"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "the hub has no model of this name, or a private one, for which `hf auth login` logs in"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"the hub has no revision {revision!r} of it"
    if isinstance(error, errors.LocalEntryNotFoundError):
        return (
            "the hub cannot be reached (or HF_HUB_OFFLINE is set), and the cache has no complete copy: go online once"
        )
    return " ".join(str(error).split()) or type(error).__name__
