"""The versions that pyproject.toml declares are those that the tests were run with."""

from importlib.metadata import PackageNotFoundError, version

import pytest
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from versions import constraints, declared

# developers' tools, and what `make docs` and `make test-ray` alone run: one version of each is enough
TOOLS = {"ruff", "mypy", "build", "pre-commit", "atheris", "cosmic-ray", "ray"}
TOOLS |= {"mkdocs", "mkdocs-material", "mkdocstrings", "mkdocstrings-python", "nbclient", "ipykernel"}
NEVER_RUN = {"flash-attn"}  # needs a GPU and a compiler


def lowest(name):
    """The version after >= in the range that is declared of a package."""
    return next(Version(part.version) for part in SpecifierSet(declared()[name]) if part.operator == ">=")


@pytest.mark.parametrize("name", sorted(set(declared()) - NEVER_RUN))
def test_the_lowest_version_allowed_is_one_that_was_run(name):
    ran = constraints("constraints.txt" if name in TOOLS else "constraints-floor.txt")
    assert lowest(name) == Version(ran[name])


@pytest.mark.parametrize("file", ["constraints.txt", "constraints-newest.txt"])
def test_what_was_run_is_allowed(file):
    for name, ran in constraints(file).items():
        assert Version(ran) in SpecifierSet(declared()[name]), name
    missing = set(declared()) - set(constraints(file)) - NEVER_RUN
    assert missing <= (TOOLS if file == "constraints-newest.txt" else set())


def test_the_versions_installed_here_are_allowed():
    for name, allowed in declared().items():
        try:
            installed = version(name)
        except PackageNotFoundError:
            continue  # of an extra that is not installed
        assert Version(installed) in SpecifierSet(allowed), name
