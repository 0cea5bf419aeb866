"""Links an extension for macOS with zig's own linker, which also signs it ad hoc, as macOS demands of arm64 code.

zig's `-bundle` writes no Mach-O file, so it is a dynamic library, which Python loads as well. C++'s library is macOS's
own, as it is MLX's: there is no copy of it here, so that a stub names what is looked for in it.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

from moe_mlx.native import build, prebuilt
from tests.cross import wheels
from tests.cross.compiling import Target
from tests.cross.macho import read_symbols

LIBCXX = "/usr/lib/libc++.1.dylib"
#: MLX's library is looked for in the site-packages that the extension lies in; MLX has loaded that one already.
RPATH = f"@loader_path/{prebuilt.MLX_LIBRARIES}"
_STUB = """--- !tapi-tbd
tbd-version: 4
targets: [ arm64-macos ]
install-name: '{name}'
exports:
  - targets: [ arm64-macos ]
    symbols: [ {symbols} ]
...
"""


class DoesNotLinkError(Exception):
    """What the linker said."""


def soabi(python: str) -> str:
    """Returns what macOS's Python of a version ("3.12") calls its extensions' ABI."""
    return f"cpython-{python.replace('.', '')}-darwin"


def link(compiler: Path, target: Target, python: str, objects: list[Path]) -> Path:
    """Links an extension, once for the same objects.

    Raises:
        DoesNotLinkError: with the first line of what the linker said.
    """
    library = target.mlx / "lib"
    name = f"{build.MODULE}.{soabi(python)}.so"
    command = [str(compiler), "c++", "-target", f"aarch64-macos.{target.macos}.0", "-shared", "-nostdlib++"]
    command += ["-undefined", "dynamic_lookup", f"-Wl,-install_name,@rpath/{name}", f"-Wl,-rpath,{RPATH}", "-s"]
    command += [*map(str, objects), f"-L{library}", "-lmlx"]
    running = hashlib.sha256("\0".join(command).encode())
    for path in objects:
        running.update(path.read_bytes())
    made = wheels.cache_folder() / "linked" / running.hexdigest()[:24] / name
    if not made.exists():
        made.parent.mkdir(parents=True, exist_ok=True)
        stub = made.with_name("libc++.tbd")
        stub.write_text(_STUB.format(name=LIBCXX, symbols=", ".join(f"'{one}'" for one in sorted(_of_libcxx(objects)))))
        beside = made.with_suffix(f".{os.getpid()}")
        environment = {**os.environ, "ZIG_GLOBAL_CACHE_DIR": str(wheels.cache_folder() / "zig")}
        command += [str(stub), "-o", str(beside)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)
        if done.returncode or not beside.is_file():
            said = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr[:200])
            raise DoesNotLinkError(f"Python {python}: {said.strip()[:300]}")
        beside.replace(made)
    return made


def _of_libcxx(objects: list[Path]) -> set[str]:
    """Symbols that some objects want and none defines, of C++'s library as their names tell."""
    found = [read_symbols(path.read_bytes()) for path in objects]
    wanted = {name for one in found for name in one.undefined} - {name for one in found for name in one.defined}
    return {name for name in wanted if is_cxx(name)}


def is_cxx(name: str) -> bool:
    """Returns whether a symbol is C++'s library's: of namespace std, of its ABI, or an operator new or delete."""
    of_std = name.startswith(("__ZNSt", "__ZNKSt", "__ZSt", "__ZTVSt", "__ZTISt", "__ZTSSt", "__ZTVNSt", "__ZTINSt"))
    of_abi = name.startswith(("__ZTVN10__cxxabiv1", "___cxa_", "___gxx_", "__ZTI", "__ZTS")) and "3mlx4core" not in name
    return of_std or of_abi or name.startswith(("__Znw", "__Zna", "__Zdl", "__Zda"))
