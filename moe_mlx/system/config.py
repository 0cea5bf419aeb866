"""The user's own defaults, from a TOML file: a flag wins over the environment, the environment over the file."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from moe_mlx.errors import UsageError

#: Another file than the usual one; and what the name of each key begins with in the environment.
VARIABLE, PREFIX = "MOE_MLX_CONFIG", "MOE_MLX_"
#: Key -> (what it holds, what it is for). Those of an option have its name.
KEYS: dict[str, tuple[type[Any], str]] = {
    "folders": (list, "where models are looked for"),
    "model": (str, "what runs unless --model names another"),
    "expert_cache": (str, "cap: bytes, a share, or auto"),
    "evict": (str, "which expert gives way"),
    "readers": (str, "threads that read experts"),
    "io": (str, "through the page cache, or past it"),
    "decode": (str, "where decode routes"),
    "prefetch": (str, "read what the next layer is guessed to choose"),
    "routing": (str, "policy of decode"),
    "route_lambda": (float, "strength of cache-prior"),
    "route_top_j": (int, "true top experts never displaced"),
    "route_max_rank": (int, "M of max-rank"),
    "route_mass": (float, "p of cumulative"),
    "quality": (str, "loss to hold in place of a routing"),
    "speed": (float, "tokens a second to hold in place of a routing"),
    "light": (str, "what absent experts of little weight do"),
    "light_beyond": (float, "weight that lies before an expert of little weight"),
    "light_distance": (int, "layers later that a late output is added"),
    "light_form": (str, "what of an expert a coarse one is"),
    "profile": (str, "profile whose history is used and kept"),
    "pin": (str, "experts that never give way"),
    "max_tokens": (int, "of an answer at most"),
    "temp": (float, "temperature"),
    "top_p": (float, "nucleus"),
    "min_p": (float, "least share of the likeliest"),
    "top_k": (int, "likeliest tokens to draw from"),
    "repetition_penalty": (float, "against repetition"),
    "seed": (int, "of the sampler"),
    "system_prompt": (str, "what every conversation starts from"),
    "max_kv_size": (int, "tokens of the KV cache at most"),
    "kv_bits": (int, "bits of the KV cache"),
    "prompt_store": (str, "where prompt caches are kept: auto, a folder, or off"),
    "theme": (str, "colours of the app"),
    "ascii": (bool, "plain characters"),
}
_NOTHING = ("", "0", "no", "off", "false")


@dataclass(frozen=True, slots=True)
class Default:
    """One key's value and where it came from, in words that a complaint can use."""

    name: str
    value: Any
    origin: str


def config_path() -> Path:
    """Returns where the file lies, or would: `$MOE_MLX_CONFIG`, else below `$XDG_CONFIG_HOME` or `~/.config`.

    Raises:
        UsageError: there is no home folder.
    """
    if named := os.environ.get(VARIABLE):
        return Path(named).expanduser()
    base = os.environ.get("XDG_CONFIG_HOME")
    try:
        folder = Path(base) if base and Path(base).is_absolute() else Path.home() / ".config"
    except RuntimeError:
        raise UsageError(f"there is no home folder to keep a config file in: name one in ${VARIABLE}") from None
    return folder / "moe-mlx" / "config.toml"


def read_config_file(path: Path) -> dict[str, Any]:
    """Returns the file's keys and values, checked; nothing where there is no file.

    Raises:
        UsageError: it cannot be read, is no TOML, or has a key or a value that cannot be taken.
    """
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; mend or remove the config file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no TOML: {error}. Mend it, or remove it to go back to the defaults") from None
    return {name: _checked(name, value, str(path)) for name, value in found.items()}


def defaults(environment: Mapping[str, str] = os.environ) -> dict[str, Default]:
    """Returns every key that the environment or the file sets.

    Raises:
        UsageError: a value that cannot be taken; names where it stands.
    """
    path = config_path()
    found = {name: Default(name, value, str(path)) for name, value in read_config_file(path).items()}
    for name in KEYS:
        variable = PREFIX + name.upper()
        if (text := environment.get(variable)) is None:
            continue
        if text or KEYS[name][0] is str:
            found[name] = Default(name, _from_text(name, text, f"${variable}"), f"${variable}")
    return found


def model_folders() -> list[str] | None:
    """Returns the folders that models are to be looked for in; None where nobody said."""
    found = defaults().get("folders")
    return None if found is None else list(found.value)


def _checked(name: str, value: Any, origin: str) -> Any:
    if name not in KEYS:
        near = get_close_matches(name, KEYS, n=1, cutoff=0.6)
        raise UsageError(
            f"{origin}: no setting is called {name}"
            + (f"; did you mean {near[0]}?" if near else "")
            + " `moe-mlx config` lists them"
        )
    kind = KEYS[name][0]
    if kind is str and isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)  # expert_cache = 4000000000, readers = 8
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if kind is list and isinstance(value, str):
        value = [value]
    right = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    if not right or (kind is list and not all(isinstance(item, str) for item in value)):
        wanted = {list: "a list of folders", str: "a text", int: "a whole number", float: "a number"}
        raise UsageError(f"{origin}: {name} = {value!r}: give {wanted.get(kind, 'true or false')}")
    return value


def _from_text(name: str, text: str, origin: str) -> Any:
    kind = KEYS[name][0]
    if kind is list:
        return [part for part in text.split(os.pathsep) if part]
    if kind is bool:
        return text.strip().lower() not in _NOTHING
    try:
        return kind(text)
    except ValueError:
        return _checked(name, text, origin)
