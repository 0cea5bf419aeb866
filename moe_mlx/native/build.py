"""Builds the primitive with the machine's own compiler against the installed MLX, once, into a cache.

An extension of MLX is tied to its exact version: the one that a wheel may bring along (`prebuilt`) fits one MLX, any
other is built. macOS flags are written from MLX's own build and could not be tried where this was developed.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sys
import sysconfig
import time
from collections.abc import Callable, Sequence
from importlib.machinery import ExtensionFileLoader
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from moe_mlx.native import kept
from moe_mlx.native.abi import internals_of, why_not
from moe_mlx.native.toolchain import CompilerTooSlowError, NativeUnavailableError, find_compiler, run_all, version_of

FOLDER = Path(__file__).parent
MODULE = "_moe_mlx_native"
UNITS = (
    "core/access.cpp",
    "core/descriptors.cpp",
    "core/reader.cpp",
    "core/prefetcher.cpp",
    "core/guess.cpp",
    "core/halves.cpp",
    "core/late_layer.cpp",
    "core/layer.cpp",
    "core/light.cpp",
    "core/parts.cpp",
    "core/rows.cpp",
    "fetch.cpp",
    "fetch_fault.cpp",
    "fetch_rows.cpp",
    "module.cpp",
)
#: `-ffp-contract=off`: the rule must give numpy's bits, so nothing may be fused.
COMMON_FLAGS = (
    "-std=c++20",
    "-O2",
    "-fPIC",
    "-fvisibility=hidden",
    "-ffp-contract=off",
    "-DNDEBUG",
    "-DNB_DOMAIN=mlx",
)
FLAGS: tuple[str, ...] = (*COMMON_FLAGS, "-arch", platform.machine()) if sys.platform == "darwin" else COMMON_FLAGS
#: A build that has not ended by then (it takes one or two, ten times that on an overloaded machine) is given up.
PATIENCE_SECONDS = 600


def package_folder(name: str) -> Path:
    """Returns the folder of an installed package, with its headers.

    Raises:
        NativeUnavailableError: it is not installed.
    """
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise NativeUnavailableError(f"{name} is not installed (pip install nanobind)")
    # mlx is a namespace package: any folder of that name on the path is a part of it, without headers.
    folders = [Path(folder) for folder in spec.submodule_search_locations]
    return next((folder for folder in folders if (folder / "include").is_dir()), folders[0])


def sources() -> list[Path]:
    """Returns every file that the extension is made of, nanobind's and MLX's not among them."""
    return sorted(path for path in FOLDER.rglob("*") if path.suffix in {".h", ".cpp"})


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError as error:
        raise NativeUnavailableError(f"{error.name} is not installed (pip install nanobind)") from None


def _key(compiler: Sequence[str], mlx: Path) -> str:
    running = hashlib.sha256()
    parts = [_installed("mlx"), _installed("nanobind")]
    parts += [str(mlx), str(sysconfig.get_config_var("SOABI")), *compiler, version_of(compiler), *FLAGS]
    for part in parts:
        running.update(os.fsencode(part) + b"\0")
    for path in sources():
        running.update(path.name.encode() + b"\0" + path.read_bytes())
    return running.hexdigest()[:24]


def _compile(compiler: list[str], mlx: Path, nanobind: Path, folder: Path) -> Path:
    python = sysconfig.get_paths()["include"]
    includes = [nanobind / "include", nanobind / "ext/robin_map/include", mlx / "include", python]
    flags = [*FLAGS, *(part for path in includes for part in ("-isystem", str(path)))]
    sources = [*(FOLDER / unit for unit in UNITS), nanobind / "src/nb_combined.cpp"]
    objects = [folder / f"{source.stem}.o" for source in sources]
    commands = [
        [*compiler, *flags, "-c", str(source), "-o", str(made)] for source, made in zip(sources, objects, strict=True)
    ]
    deadline = time.monotonic() + PATIENCE_SECONDS
    run_all(commands, PATIENCE_SECONDS, at_once=min(4, os.cpu_count() or 1))
    library = folder / f"{MODULE}.so"
    if sys.platform == "darwin":
        link = ["-bundle", "-undefined", "dynamic_lookup", "-arch", platform.machine()]
    else:
        link = ["-shared", "-pthread"]
    rpath = f"-Wl,-rpath,{mlx / 'lib'}"
    linking = [*compiler, *link, *map(str, objects), f"-L{mlx / 'lib'}", "-lmlx", rpath, "-o", str(library)]
    run_all([linking], deadline - time.monotonic())
    if not library.is_file():
        raise NativeUnavailableError(f"{compiler[0]} made nothing, and called that a success")
    return library


def build(say: Callable[[str], None]) -> Path:
    """Returns the extension, built if the cache does not hold it.

    Args:
        say: Gets a line when something has to be compiled, or another process compiles it.

    Raises:
        NativeUnavailableError: no compiler, no nanobind, or a compiler that fails or does not end.
    """
    mlx, nanobind = package_folder("mlx"), package_folder("nanobind")
    if not (mlx / "include" / "mlx" / "mlx.h").exists():
        raise NativeUnavailableError(f"the installed mlx has no headers ({mlx})")
    if reason := why_not(_installed("mlx"), _installed("nanobind"), internals_of(nanobind)):
        raise NativeUnavailableError(reason)
    compiler = find_compiler()
    home = kept.cache_folder() / _key(compiler, mlx)
    target = home / f"{MODULE}.so"
    if kept.is_whole(target):
        return target
    kept.check_rested(home)
    try:
        home.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with kept.alone(home, say, PATIENCE_SECONDS):
            if not kept.is_whole(target):
                why = "anew, for the built file is damaged" if target.exists() else "once per MLX version"
                takes = f"about a minute, {PATIENCE_SECONDS / 60:g} at most"
                say(f"building the in-graph decode with your C++ compiler ({why}: {takes})")
                with kept.workshop(home) as work:
                    kept.keep(_compile(compiler, mlx, nanobind, work), target)
    except CompilerTooSlowError as error:
        kept.note_given_up(home, str(error))
        raise
    except OSError as error:
        raise NativeUnavailableError(f"{home.parent} cannot be used: {error.strerror or error}") from None
    return target


def import_module(path: Path) -> ModuleType:
    """Imports a built extension.

    Raises:
        NativeUnavailableError: it does not load, or does not know the installed MLX's arrays.
    """
    import mlx.core as mx

    spec = spec_from_file_location(MODULE, path, loader=ExtensionFileLoader(MODULE, str(path)))
    if spec is None or spec.loader is None:
        raise NativeUnavailableError(f"{path} is no extension")
    try:
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        module.probe(mx.zeros((1,)))
    except TypeError:
        raise NativeUnavailableError(
            f"nanobind {version('nanobind')} does not match the one mlx {mx.__version__} was built with"
        ) from None
    except ImportError as error:
        raise NativeUnavailableError(f"the built extension does not load: {error}") from None
    if not mx.__version__.startswith(module.MLX_VERSION):
        raise NativeUnavailableError(f"built for mlx {module.MLX_VERSION}, {mx.__version__} is installed")
    sys.modules[MODULE] = module
    return module


def load_native(say: Callable[[str], None]) -> ModuleType:
    """Returns the extension, built and imported at most once in a process; arguments and errors as for `build`."""
    return sys.modules.get(MODULE) or import_module(build(say))
