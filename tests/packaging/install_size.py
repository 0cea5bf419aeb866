"""What each extra adds to an installation: bytes of the packages that it brings, as this environment has them.

  python -m tests.packaging.install_size [EXTRA ...]

Read from the packages' own lists of files, without compiled Python; every extra that is asked for has to be installed.
"""

import sys
from importlib.metadata import distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def packages(
    name: str, extras: frozenset[str], seen: dict[str, frozenset[str]] | None = None
) -> dict[str, frozenset[str]]:
    """Returns everything that an installation of a package brings, itself included, with the extras of each."""
    seen = {} if seen is None else seen
    known = seen.get(name)
    if known is not None and extras <= known:
        return seen
    seen[name] = extras | (known or frozenset())
    for line in distribution(name).requires or ():
        wanted = Requirement(line)
        if wanted.marker is None or any(wanted.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            packages(canonicalize_name(wanted.name), frozenset(wanted.extras), seen)
    return seen


def size(name: str) -> int:
    """Returns the bytes of a package's files."""
    files = [file.locate() for file in distribution(name).files or () if file.suffix != ".pyc"]
    return sum(file.stat().st_size for file in files if file.is_file())


def main() -> int:
    base = packages("moe-mlx", frozenset())
    print(f"moe-mlx: {sum(map(size, base)) / 1e6:.0f} MB in {len(base)} packages")
    for extra in sys.argv[1:] or ("vlm", "serve", "web", "plot", "grammar"):
        added = packages("moe-mlx", frozenset({extra})).keys() - base.keys()
        sizes = sorted(((size(name), name) for name in added), reverse=True)
        largest = ", ".join(f"{name} {nbytes / 1e6:.0f}" for nbytes, name in sizes[:5])
        print(f"  [{extra}] adds {sum(n for n, _ in sizes) / 1e6:.0f} MB in {len(added)} packages: {largest}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
