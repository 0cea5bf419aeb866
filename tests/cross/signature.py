"""An ad hoc code signature, as the linker writes it and arm64 macOS demands it before it runs a page.

Laid out as in xnu's <osfmk/kern/cs_blobs.h>: big-endian, unlike the file around it.
"""

from __future__ import annotations

import hashlib
import struct

_SUPER_BLOB, _CODE_DIRECTORY, _SHA256 = 0xFADE0CC0, 0xFADE0C02, 2
_AD_HOC = 0x2


def signature_faults(data: bytes, place: tuple[int, int] | None) -> list[str]:
    """Returns what is wrong with a file's signature: none, not ad hoc, or a page whose digest is another one.

    Args:
        data: The file.
        place: Offset and size of its signature.
    """
    if place is None:
        return ["it is not signed"]
    blob = data[place[0] : sum(place)]
    if len(blob) != place[1] or len(blob) < 12:
        return ["its signature is cut"]
    magic, _, count = struct.unpack_from(">3I", blob)
    if magic != _SUPER_BLOB:
        return ["its signature is none"]
    starts = [struct.unpack_from(">2I", blob, 12 + 8 * number)[1] for number in range(count)]
    directories = [at for at in starts if struct.unpack_from(">I", blob, at)[0] == _CODE_DIRECTORY]
    return (
        _directory_faults(data, blob[directories[0] :], place[0]) if directories else ["its signature has no digests"]
    )


def _directory_faults(data: bytes, directory: bytes, end: int) -> list[str]:
    """Compares the digest of every page before the signature."""
    fields = struct.unpack_from(">9I4B", directory)
    flags, digests_at, pages, limit = fields[3], fields[4], fields[7], fields[8]
    digest_size, digest_kind, _, page_bits = fields[9:]
    if not flags & _AD_HOC:
        return ["its signature names a signer, and there is none"]
    if (digest_kind, digest_size, limit) != (_SHA256, 32, end):
        return [f"its signature covers {limit} bytes of {end}, by digests of kind {digest_kind}"]
    size = 1 << page_bits
    if pages != -(-end // size):
        return [f"its signature has digests of {pages} pages, not {-(-end // size)}"]
    other = [
        page
        for page in range(pages)
        if hashlib.sha256(data[page * size : min(end, (page + 1) * size)]).digest()
        != directory[digests_at + 32 * page : digests_at + 32 * (page + 1)]
    ]
    return [f"its signature is of other bytes (page {page})" for page in other[:1]]
