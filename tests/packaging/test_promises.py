"""docs/promises.md and docs/threats.md name tests: each of them is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def named(page: str) -> list[tuple[str, str]]:
    """Files and tests that a page names; `::test` stands for one of the file before it."""
    found, file = [], ""
    for path, test in re.findall(r"`(?:tests/)?((?:\w+/)+test_\w+\.py)?(?:::(\w+))?`", (ROOT / page).read_text()):
        file = path or file
        if file and (path or test):
            found.append((file, test))
    return found


@pytest.mark.parametrize("page", ["docs/promises.md", "docs/threats.md"])
def test_every_test_named_is_there(page: str):
    names = named(page)
    assert len(names) > 20
    gone = [
        f"{file}::{test}"
        for file, test in names
        if not (path := ROOT / "tests" / file).is_file()
        or (test and not re.search(rf"def {test}\b", path.read_text(encoding="utf-8")))
    ]
    assert not gone, f"{page} names tests that are not there: {gone}"


def test_a_count_stands_once():
    """In the table of runs, whose rows name each run once."""
    before, _, table = (ROOT / "docs/promises.md").read_text().partition("## Last full runs")
    runs = re.findall(r"^\| (`[^|]+`) \|", table, re.MULTILINE)
    assert runs and len(runs) == len(set(runs))
    assert not re.search(r"\d passed", before)
