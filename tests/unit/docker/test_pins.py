"""The pinned libraries work beside each other: one that refuses another's version does so when imported."""

import importlib
import re
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

PROJECT = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
# Left out: locust, which patches the process that imports it, and what needs a GPU.
EXTRAS = ("train", "serve", "explore")


def distribution(requirement: str) -> str:
    """The normalised name of what a requirement asks for."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\[=<>]", requirement)[0]).lower()


def requirements() -> list[str]:
    optional = PROJECT["optional-dependencies"]
    everything = [*PROJECT["dependencies"], *(each for extra in EXTRAS for each in optional[extra])]
    return sorted({distribution(each) for each in everything})


@pytest.fixture(scope="module")
def modules_of() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for module, distributions in packages_distributions().items():
        for each in distributions:
            found.setdefault(distribution(each), []).append(module)
    return found


@pytest.mark.parametrize("name", requirements())
def test_a_required_library_can_be_imported(modules_of: dict[str, list[str]], name: str) -> None:
    modules = [module for module in modules_of[name] if module.isidentifier() and not module.startswith("_")]
    spelled = re.sub("-", "_", name)
    chosen = spelled if spelled in modules else min(modules, key=len)
    assert importlib.import_module(chosen).__name__ == chosen
