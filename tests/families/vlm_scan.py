"""Finds the packages of the installed mlx-vlm that hold, or build on, routed experts, by reading their source."""

import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from tests.families.scan import relative_imports

_COUNTS = re.compile(r"\b(num_experts|n_routed_experts|num_local_experts|moe_num_experts)\b")
#: What a package takes of another that may bring experts along.
_BRINGS = re.compile(r"^LanguageModel$|^Model$|MoE|Moe|DecoderLayer|TextModel|^\w+V\dModel$|HModel$")


def models() -> Path:
    """The folder of mlx-vlm's models; it is not imported."""
    spec = find_spec("mlx_vlm")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / "models"


def moe_packages(folder: Path) -> set[str]:
    """Return the names of the packages that end up with routed experts.

    A package counts when it imports from ``switch_layers``, names a count of experts, or takes a model, a layer or a
    block from another package that counts.
    """
    texts = {
        path.name: [file.read_text(encoding="utf-8") for file in path.rglob("*.py")]
        for path in folder.iterdir()
        if path.is_dir() and path.name[0] != "_"
    }
    packages = {name: [taken for text in files for taken in _imports(text)] for name, files in texts.items()}
    found = {
        name
        for name, imports in packages.items()
        if any(module == "switch_layers" for module, _ in imports) or any(map(_COUNTS.search, texts[name]))
    }
    while (
        grown := {
            name
            for name, imports in packages.items()
            if any(module in found and _BRINGS.search(taken) for module, taken in imports)
        }
        - found
    ):
        found |= grown
    return found


def _imports(text: str) -> Iterator[tuple[str, str]]:
    """Yields what a module takes of its package's siblings: (sibling, name)."""
    for node in relative_imports(text):
        if node.level >= 2:
            for alias in node.names:
                yield (node.module or alias.name).split(".")[0], alias.name
