"""``limner info``."""

from dataclasses import replace
from pathlib import Path

from .options import LOADING, Loading
from .paths import expanded


def info(what: str | None = None, /, *, loading: Loading = LOADING, memory: bool = False) -> None:
    """Say what a model or an adapter is made of, or how a picture was drawn.

    Args:
        what: a model (the same as --model), the folder of an adapter, or the file of a
            picture; what it is, is told by its contents
        memory: what each part's weights take in each precision
    """
    path = None if what is None else expanded(what)
    if path is not None and path.is_file():
        described = describe_picture(path)
    elif path is not None and is_adapter(path):
        from ...inference.info import describe_adapter

        described = describe_adapter(path)
    else:
        from ...inference.info import describe_memory, describe_model

        model = replace(loading, model=what or loading.model).load()
        described = "\n".join([describe_model(model), *([describe_memory(model)] if memory else [])])
        memory = False
    if memory:
        raise ValueError(f"--memory is for models, and {what} is none")
    print(described)


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter and no model."""
    from ...inference.adapter_files import CARD

    return (folder / CARD).is_file() and not (folder / "config.json").exists()


def describe_picture(path: Path) -> str:
    from ...inference.images import load_as
    from ...inference.picture_metadata import read_metadata

    said, kind = read_metadata(path), load_as(lambda image, _: f"{image.width} x {image.height}, {image.format}", path)
    if said is None:
        return f"{path}: {kind}; it does not say how it was drawn"
    command = said.command()
    return f"{path}: {kind}\n{said.describe()}" + (f"\n{command}" if command else "")
