"""Whether macOS could load an extension, as far as its file tells: what it needs, where it looks, how it is signed."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from moe_mlx.native import build
from tests.cross.linking import LIBCXX, RPATH
from tests.cross.macho import BUNDLE, DYLIB, DYNAMIC_LOOKUP, MACOS, WEAK, Image, read_image, read_symbols
from tests.cross.signature import signature_faults

LIBSYSTEM, LIBMLX = "/usr/lib/libSystem.B.dylib", "@rpath/libmlx.dylib"
#: What MLX's own libraries do not use of the system's and macOS 14 has: POSIX, and C++'s library as its stable ABI was
#: in LLVM 14 (its list in libcxx/lib/abi). Most of them are used by other projects' wheels for macOS 11 to 14.
OLDER = frozenset(
    """
    _atoll _getrlimit _openat _posix_memalign _preadv _sysconf _wmemchr dyld_stub_binder
    __ZNSt11logic_errorC1EPKc __ZNSt11logic_errorD1Ev __ZTISt11logic_error
    __ZNSt13runtime_errorC2ERKS_ __ZNSt13runtime_erroraSERKS_
    __ZNSt3__112bad_weak_ptrD1Ev __ZTINSt3__112bad_weak_ptrE __ZTVNSt3__112bad_weak_ptrE
    __ZNSt3__112system_errorC1EiRKNS_14error_categoryEPKc __ZNSt3__112system_errorD1Ev __ZTINSt3__112system_errorE
    __ZNSt3__116generic_categoryEv __ZNSt3__15mutex8try_lockEv __ZNSt3__16thread6detachEv __ZNSt3__19to_stringEx
    """.split()  # noqa: SIM905
)


@dataclass(frozen=True)
class Known:
    """What is exported where the extension will look, as far as can be known here.

    Attributes:
        mlx: By MLX's library.
        system: By macOS: what MLX's own libraries look for in it.
        python: By Python: what MLX's own extension looks for in it.
        headers: Those of a Python of that version, whose interpreter is asked for the rest.
    """

    mlx: frozenset[str]
    system: frozenset[str]
    python: frozenset[str]
    headers: Path


def known(library: bytes, core: bytes, headers: Path) -> Known:
    """Returns it from MLX's library and its extension."""
    mlx, extension = read_symbols(library), read_symbols(core)
    python = frozenset(name for name in extension.undefined if _is_python(name))
    return Known(mlx.defined, mlx.undefined | extension.undefined | OLDER, python, headers)


def _exported(headers: Path, names: set[str]) -> frozenset[str]:
    """Returns which of some names of the C API an interpreter has; none where the headers are without one."""
    words = "import ctypes, sys; print(*(name for name in sys.argv[1:] if hasattr(ctypes.pythonapi, name[1:])))"
    command = [str(headers.parents[1] / "bin" / headers.name), "-c", words, *sorted(names)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except OSError:
        return frozenset()
    return frozenset(done.stdout.split())


def _is_python(name: str) -> bool:
    return name.startswith(("_Py", "__Py"))


def faults_of(data: bytes, macos: str, there: Known, own: frozenset[str] = frozenset()) -> list[str]:
    """Returns what would keep macOS's loader from an extension, one line each.

    Args:
        data: The extension.
        macos: The oldest release it is for ("14").
        there: What it may look for.
        own: What its objects define: the loader leaves a weak one as it is where no other library has it.

    Raises:
        ValueError: it is no Mach-O file for arm64.
    """
    image = read_image(data)
    faults = []
    if image.kind not in (DYLIB, BUNDLE):
        faults.append(f"its kind is {image.kind}: neither a library nor a bundle")
    if (image.platform, image.least) != (MACOS, f"{macos}.0"):
        faults.append(f"it is for platform {image.platform} from {image.least} on, not for macOS {macos}.0")
    if set(image.loads) != {LIBSYSTEM, LIBCXX, LIBMLX} or image.rpaths != [RPATH]:
        faults.append(f"it loads {', '.join(image.loads)} from {', '.join(image.rpaths)}")
    if f"_PyInit_{build.MODULE}" not in image.exports:
        faults.append("it does not export what Python starts it by")
    return [*faults, *_unresolved(image, there, own), *signature_faults(data, image.signature)]


def _unresolved(image: Image, there: Known, own: frozenset[str]) -> list[str]:
    places = {LIBMLX: there.mlx, LIBCXX: there.system, LIBSYSTEM: there.system}
    faults = []
    for number, names in sorted(image.wanted.items()):
        if number == DYNAMIC_LOOKUP:
            rest = {name for name in names - there.python if _is_python(name)}
            place, has = "Python", there.python | (_exported(there.headers, rest) if rest else frozenset())
        elif number == WEAK:
            place, has = "anything that is loaded", own | there.mlx | there.system
        else:
            place = image.loads[number - 1] if 0 < number <= len(image.loads) else f"library {number}"
            has = places.get(place, frozenset())
        faults += [f"it looks for {name} in {place}, which is not known to have it" for name in sorted(names - has)]
    return faults
