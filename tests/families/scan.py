"""Finds the model files of the installed mlx-lm that hold, or build on, routed experts, by reading their source."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import mlx_lm

MODELS = Path(mlx_lm.__file__).parent / "models"
#: A relative import, over several lines where it is in parentheses.
_RELATIVE = re.compile(r"^[ \t]*(from\s+\.[\w.]*\s+import\s+(?:\([^)]*\)|[^\n(]+))", re.MULTILINE)


def moe_model_files(folder: Path = MODELS) -> set[str]:
    """Return the names of the model files that end up with routed experts.

    A file counts when it imports from ``switch_layers``, speaks of experts at all (dbrx keeps its own in a list), or
    imports another file that counts.
    """
    imports = {path.stem: _sibling_imports(path) for path in folder.glob("*.py") if path.stem != "switch_layers"}
    found = {
        name
        for name, siblings in imports.items()
        if "switch_layers" in siblings or "expert" in (folder / f"{name}.py").read_text(encoding="utf-8").lower()
    }
    while grown := {name for name, siblings in imports.items() if siblings & found} - found:
        found |= grown
    return found


def relative_imports(text: str) -> Iterator[ast.ImportFrom]:
    """Yields the relative imports of a module; the rest of it, which is long, is not parsed."""
    for found in _RELATIVE.finditer(text):
        (node,) = ast.parse(found[1]).body
        assert isinstance(node, ast.ImportFrom)
        yield node


def _sibling_imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in relative_imports(path.read_text(encoding="utf-8")):
        if node.level == 1:
            names |= {node.module} if node.module else {alias.name for alias in node.names}
    return names
