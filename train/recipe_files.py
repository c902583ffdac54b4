"""A recipe's file, shipped or one's own, composed by Hydra with the files that it names and with overrides."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from .config_parsing import current_override

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
GROUPS = ("backbone", "data")
"""Folders of `CONFIGS` whose files an override chooses by name (``backbone=small``)"""


def find_recipe(recipe: str) -> Path:
    """The file of a shipped recipe's name or of a path. Raises ValueError where there is none."""
    path = Path(recipe)
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        if not path.is_file():
            raise ValueError(f"no such file: {path}")
        if path.suffix != ".yaml":
            raise ValueError(f"{path}: Hydra reads files whose names end in .yaml")
        return path.resolve()
    shipped = CONFIGS / "recipe" / f"{recipe}.yaml"
    if not shipped.exists():
        known = ", ".join(sorted(path.stem for path in shipped.parent.glob("*.yaml")))
        raise ValueError(f"no recipe {recipe!r}; there are {known}, or the path of a .yaml file")
    return shipped


def compose_recipe(path: Path, overrides: Sequence[str] = ()) -> DictConfig:
    """The file's keys with those of the files that its ``defaults`` name, found beside it and among the shipped ones.

    Raises ValueError for a file that cannot be read, one that it names and that is not there, and bad overrides.
    """
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException

    # a shipped recipe is composed from the folder of all groups, where one's own file would stand
    folder = CONFIGS if path.is_relative_to(CONFIGS) else path.parent
    shipped = str(CONFIGS).replace("\\", "\\\\").replace("'", "\\'")
    try:
        with initialize_config_dir(str(folder), version_base="1.3"):
            changes = [hydra_override(override, folder) for override in overrides]
            name = path.relative_to(folder).with_suffix("").as_posix()
            return compose(name, [f"hydra.searchpath=['file://{shipped}']", *changes])
    except (OmegaConfBaseException, HydraException, YAMLError) as error:
        raise ValueError(one_line(error)) from error


def hydra_override(override: str, folder: Path) -> str:
    """``KEY=VALUE`` as Hydra reads it: of a group the choice of a file, else a value, whether or not the file has the key."""
    key, _, value = override.partition("=")
    chosen = key.lstrip("+").partition("@")[0]
    if (chosen in GROUPS and not value.startswith("{")) or (folder / chosen / f"{value}.yaml").is_file():
        return override
    return f"++{current_override(override)}"


def one_line(error: Exception) -> str:
    """What Hydra, OmegaConf or YAML say of a mistake, without Hydra's search path; OmegaConf's with the key."""
    if isinstance(error, OmegaConfBaseException):
        key: Any = error.full_key
        return str(error).splitlines()[0] + (f" ({key})" if key else "")
    return " ".join(str(error).partition("Config search path")[0].split())
