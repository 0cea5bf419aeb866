"""XXH3-128, the digest of every expert and file of a store: it finds damage, it is no protection against forgery."""

from __future__ import annotations

import re
from collections.abc import Iterable

import xxhash

#: Name of the digest in the manifest.
NAME = "xxh3-128"
_HEX = re.compile(r"[0-9a-f]{32}")


def new() -> xxhash.xxh3_128:
    """Returns a running digest with `update(bytes)` and `hexdigest()`."""
    return xxhash.xxh3_128()


def of(buffers: Iterable[memoryview | bytes]) -> str:
    """Returns the digest, 32 hexadecimal digits, of buffers read as one run of bytes."""
    running = xxhash.xxh3_128()
    for buffer in buffers:
        running.update(buffer)
    return running.hexdigest()


def is_digest(text: object) -> bool:
    """True for 32 lower-case hexadecimal digits."""
    return isinstance(text, str) and _HEX.fullmatch(text) is not None


def are_digests(text: object) -> bool:
    """True for one digest or several, a space between them."""
    return isinstance(text, str) and all(is_digest(one) for one in text.split(" "))
