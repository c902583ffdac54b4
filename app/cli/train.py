"""``limner train``."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from .options import Out, Settings
from .training import training


def train(
    recipe: str = "nano",
    /,
    *overrides: Annotated[str, Parameter(metavar="KEY=VALUE")],
    settings: Settings = (),
    out: Out | None = None,
    stages: str | None = None,
    dry_run: bool = False,
) -> None:
    """Train a model from a recipe; interrupted runs go on.

    Args:
        recipe: nano, nano_tokens, nano_queries, tiny, released, or the path of
            a .yaml file
        overrides: values of the recipe's keys, such as joint.loop.steps=100, and
            files of a group, such as backbone=small
        settings: the same, after an option; repeatable
        out: folder of the run (the recipe's key output)
        stages: comma-separated; default: those that make a model from nothing
        dry_run: two steps of every stage, in a folder that is thrown away
    """
    with training():
        from ...train import recipe as recipes

        # a first KEY=VALUE is an override, not a recipe
        name, first = ("nano", [recipe]) if "=" in recipe and not Path(recipe).is_file() else (recipe, [])
        output = [] if out is None else [f"output={out}"]
        loaded = recipes.load_recipe(name, [*first, *overrides, *settings, *output])
        chosen = tuple(stages.split(",")) if stages else None
        if dry_run:
            recipes.dry_run(loaded, chosen)
            print("two steps of every stage went through")
        else:
            print(recipes.run_recipe(loaded, chosen))
