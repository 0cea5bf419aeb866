"""CONTRIBUTING.md against the tree: every room has its line, every file that it names is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
LINES = {match[1]: match[0] for match in re.finditer(r"^\| `([^`]+/)` \|.*$", TEXT, re.MULTILINE)}

pytestmark = pytest.mark.skipif(not (ROOT / "pyproject.toml").exists(), reason="not a checkout")


def rooms() -> set[str]:
    packages = (ROOT / "moe_mlx", ROOT / "convert/moe_mlx_convert", ROOT / "tui/moe_mlx_tui")
    found = {path.parent for package in packages for path in package.rglob("__init__.py")}
    found |= {path.parent for path in (ROOT / "tests").rglob("*.py")}
    return {f"{path.relative_to(ROOT).as_posix()}/" for path in found} - {"moe_mlx/", "tests/"}


def test_every_room_has_its_line():
    wrong = sorted(set(LINES) ^ rooms())
    assert not wrong, f"CONTRIBUTING.md and the tree differ: a room has one line there, with an example: {wrong}"


@pytest.mark.parametrize("room", sorted(LINES))
def test_a_room_s_example_is_in_it(room: str):
    example = re.findall(r"`([^`]+\.py)`", LINES[room])[-1]
    assert example.startswith(room) and (ROOT / example).is_file()


def test_every_path_is_there():
    named = set(re.findall(r"`((?:moe_mlx|convert|tui|tests|docs|assets)/[^`*]*)`", TEXT))
    assert len(named) > 60
    assert not [path for path in named if not (ROOT / path).exists()]


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ("which expert gives way", "victim"),
        ("what a digest mismatch says", "digest"),
        ("how a family's router is described", "Site("),
        ("where `--expert-cache 50%` becomes slots", "slots_for_share"),
    ],
)
def test_what_a_newcomer_asks_is_in_the_file_named(question: str, words: str):
    line = next(line for line in LINES.values() if question in line)
    assert words in (ROOT / re.findall(r"`([^`]+\.py)`", line)[-1]).read_text(encoding="utf-8")


def test_the_layers_are_the_contract_s():
    """As import-linter is told them, where it is told."""
    block = re.search(r"## Layers.*?```\n(.*?)```", TEXT, re.DOTALL)
    assert block is not None
    layers = re.findall(r"\w+", block[1])
    packages = {f"{path.parent.name}" for path in (ROOT / "moe_mlx").glob("*/__init__.py")}
    assert packages <= set(layers)
    contract = re.search(r"^layers = \[(.*?)\]", (ROOT / "pyproject.toml").read_text(), re.DOTALL | re.MULTILINE)
    if contract is not None:
        told = [word.removeprefix("moe_mlx.") for word in re.findall(r"[\w.]+", contract[1])]
        assert [word for word in told if word in layers] == [word for word in layers if word in told]


def test_no_test_imports_another():
    """What several tests need stands in a module of its own."""
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in (ROOT / "tests").rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.match(r"\s*(from|import) tests\.(\w+\.)*test_", line)
    ]
    assert not found, found
