"""``limner info``."""

from dataclasses import replace

from .options import LOADING, Loading


def info(folder: str | None = None, /, *, loading: Loading = LOADING, memory: bool = False) -> None:
    """Say what a model is made of.

    Args:
        folder: the same as --model
        memory: what each part's weights take in each precision
    """
    from ...inference.info import describe_memory, describe_model

    model = replace(loading, model=folder or loading.model).load()
    print(describe_model(model))
    if memory:
        print(describe_memory(model))
