"""Builds the primitive with the machine's own compiler against the installed MLX, once, into a cache.

An extension of MLX is tied to its exact version, so no wheel can carry it. macOS flags are written from MLX's own build
and could not be tried where this was developed.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.machinery import ExtensionFileLoader
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from moe_mlx.native.abi import internals_of, why_not
from moe_mlx.system.folders import user_folder
from moe_mlx.system.whole_files import put_in_place

FOLDER = Path(__file__).parent
MODULE = "_moe_mlx_native"
UNITS = (
    "core/access.cpp", "core/descriptors.cpp", "core/reader.cpp", "core/hints.cpp", "core/ahead.cpp", "core/layer.cpp",
    "fetch.cpp", "module.cpp",
)  # fmt: skip
#: `-ffp-contract=off`: the rule must give numpy's bits, so nothing may be fused.
FLAGS: tuple[str, ...] = (
    "-std=c++20",
    "-O2",
    "-fPIC",
    "-fvisibility=hidden",
    "-ffp-contract=off",
    "-DNDEBUG",
    "-DNB_DOMAIN=mlx",
)
if sys.platform == "darwin":
    FLAGS += ("-arch", platform.machine())
#: A compiler that has not finished by then (an overloaded machine) counts as one that does not work.
PATIENCE_SECONDS = 600


class NativeUnavailableError(Exception):
    """Why decode cannot run in the graph here, in a few words."""


def cache_folder() -> Path:
    """Returns where builds are kept: in the platform's cache folder.

    Raises:
        NativeUnavailableError: there is no home folder.
    """
    try:
        return user_folder() / "native"
    except RuntimeError as error:
        raise NativeUnavailableError(f"no cache folder: {error}") from None


def find_compiler() -> list[str]:
    """Returns the C++ compiler's command: `$CXX`, or the first of clang++ and g++ that is there.

    Raises:
        NativeUnavailableError: there is none.
    """
    named = shlex.split(os.environ.get("CXX", ""))
    if sys.platform == "darwin" and not named:
        _check_command_line_tools()
    for command in [named] if named else [["clang++"], ["g++"], ["c++"]]:
        if shutil.which(command[0]):
            return command
    raise NativeUnavailableError(f"no C++ compiler ({named[0] if named else 'clang++ or g++'})")


def _check_command_line_tools() -> None:
    """Without them /usr/bin/clang++ is a shim that opens a dialogue to install them, at each load."""
    try:
        found = subprocess.run(["/usr/bin/xcode-select", "-p"], capture_output=True, timeout=20, check=False)
    except (OSError, subprocess.SubprocessError):
        return  # another macOS than the documented one: the compiler's own answer counts
    if found.returncode:
        raise NativeUnavailableError("Apple's Command Line Tools are not installed (xcode-select --install)")


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


def _version_of(command: Sequence[str]) -> str:
    try:
        shown = subprocess.run([*command, "--version"], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise NativeUnavailableError(f"{command[0]} does not run ({error})") from None
    return shown.stdout.split("\n")[0]


def _sources() -> list[Path]:
    return sorted(path for path in FOLDER.rglob("*") if path.suffix in {".h", ".cpp"})


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError as error:
        raise NativeUnavailableError(f"{error.name} is not installed (pip install nanobind)") from None


def _key(compiler: Sequence[str], mlx: Path) -> str:
    running = hashlib.sha256()
    parts = [_installed("mlx"), _installed("nanobind")]
    parts += [str(mlx), str(sysconfig.get_config_var("SOABI")), *compiler, _version_of(compiler), *FLAGS]
    for part in parts:
        running.update(part.encode() + b"\0")
    for path in _sources():
        running.update(path.name.encode() + b"\0" + path.read_bytes())
    return running.hexdigest()[:24]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _run(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        raise NativeUnavailableError(f"{command[0]}: {error}") from None
    if done.returncode:
        lines = done.stderr.splitlines() or ["no reason given"]
        first = next((line for line in lines if "error" in line), lines[0])
        raise NativeUnavailableError(f"the compiler failed: {first.strip()[:160]}")


def _compile(compiler: list[str], mlx: Path, nanobind: Path, folder: Path) -> Path:
    python = sysconfig.get_paths()["include"]
    includes = [nanobind / "include", nanobind / "ext/robin_map/include", mlx / "include", python]
    flags = [*FLAGS, *(part for path in includes for part in ("-isystem", str(path)))]
    sources = [*(FOLDER / unit for unit in UNITS), nanobind / "src/nb_combined.cpp"]
    objects = [folder / f"{source.stem}.o" for source in sources]
    commands = [
        [*compiler, *flags, "-c", str(source), "-o", str(made)] for source, made in zip(sources, objects, strict=True)
    ]
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as threads:
        for done in [threads.submit(_run, command) for command in commands]:
            done.result()
    library = folder / f"{MODULE}.so"
    if sys.platform == "darwin":
        link = ["-bundle", "-undefined", "dynamic_lookup", "-arch", platform.machine()]
    else:
        link = ["-shared", "-pthread"]
    rpath = f"-Wl,-rpath,{mlx / 'lib'}"
    _run([*compiler, *link, *map(str, objects), f"-L{mlx / 'lib'}", "-lmlx", rpath, "-o", str(library)])
    return library


def build(say: Callable[[str], None]) -> Path:
    """Returns the extension, built if the cache does not hold it.

    Args:
        say: Gets a line when something has to be compiled.

    Raises:
        NativeUnavailableError: no compiler, no nanobind, or a compiler that fails.
    """
    mlx, nanobind = package_folder("mlx"), package_folder("nanobind")
    if not (mlx / "include" / "mlx" / "mlx.h").exists():
        raise NativeUnavailableError(f"the installed mlx has no headers ({mlx})")
    if reason := why_not(_installed("mlx"), _installed("nanobind"), internals_of(nanobind)):
        raise NativeUnavailableError(reason)
    compiler = find_compiler()
    home = cache_folder() / _key(compiler, mlx)
    target = home / f"{MODULE}.so"
    if target.exists():
        return target
    try:
        home.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(home.with_suffix(".lock")):
            if not target.exists():
                say("building the in-graph decode with your C++ compiler (once per MLX version, about a minute)")
                with tempfile.TemporaryDirectory(dir=home.parent) as work:
                    made = _compile(compiler, mlx, nanobind, Path(work))
                    home.mkdir(mode=0o700, exist_ok=True)
                    put_in_place(made, target)
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
