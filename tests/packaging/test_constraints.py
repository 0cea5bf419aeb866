"""constraints.txt pins what pyproject.toml asks for, and is what runs here: golden tests compare bits."""

import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"].values()
WANTED = [Requirement(line) for lines in (PROJECT["dependencies"], *EXTRAS) for line in lines]
HERE = sorted({wanted.name for wanted in WANTED if not wanted.marker or wanted.marker.evaluate()})
#: What `make test` does without; CI adds it.
BESIDE = {Requirement(line).name for line in PROJECT["optional-dependencies"]["vlm"]}
PINS = {
    canonicalize_name(name): pin
    for name, _, pin in (
        line.partition("==")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line and not line.startswith("#")
    )
}


@pytest.mark.parametrize("wanted", WANTED, ids=str)
def test_a_dependency_is_pinned_within_what_is_asked_for(wanted: Requirement):
    pin = PINS.get(canonicalize_name(wanted.name))
    assert pin, f"{wanted.name} is in pyproject.toml and has no line in constraints.txt"
    assert wanted.specifier.contains(pin), f"constraints.txt pins {wanted.name} {pin}, pyproject.toml asks {wanted}"


@pytest.mark.parametrize("name", HERE)
def test_the_pinned_version_is_what_runs(name: str):
    try:
        found = version(name)
    except PackageNotFoundError:
        if name in BESIDE:
            pytest.skip(f"{name} is not installed: the extra `vlm`")
        pytest.fail(f"{name} is not installed: `make test` makes an environment that has it")
    assert found == PINS[canonicalize_name(name)], f"{name} {found} runs here, pinned is another"


def test_pins_are_exact_and_each_stands_once():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(line.count("==") == 1 for line in lines)
    assert len(lines) == len(PINS)
