"""Prints the versions that are installed of what pyproject.toml declares, as constraints: what `make newest` records."""

from __future__ import annotations

import platform
import re
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).parent.parent


def declared() -> dict[str, str]:
    """{package: its range} of all dependencies and extras in pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    found = (
        re.fullmatch(r"([a-z0-9-]+)(?:\[[a-z,]+\])?([^;\[]*)", line) for line in lines if not line.startswith("limner[")
    )
    return {match[1]: match[2].strip() for match in found if match}


def constraints(name: str) -> dict[str, str]:
    """{package: version} of a file of constraints in the root."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def main() -> None:
    """Print the constraints, and in a comment the Python that they were run with."""
    print(
        f"# the newest versions that the quick tests were run with: `make newest`, Python {platform.python_version()}"
    )
    for name in declared():
        try:
            print(f"{name}=={version(name).split('+')[0]}")
        except PackageNotFoundError:
            continue  # of an extra that is not installed


if __name__ == "__main__":
    main()
