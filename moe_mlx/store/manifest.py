"""store.json, the manifest of a store: written with every digest; read believing nothing of it.

Types, names, sizes and sums are checked against each other, and no path comes from it: layers give their own folders.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from moe_mlx.errors import StoreCorruptError
from moe_mlx.store import digest, header, manifest_bits, manifest_parts
from moe_mlx.store.layout import Manifest, StoredFile, StoredLayer, expert_header
from moe_mlx.store.parts import layout_of
from moe_mlx.store.spec import DTYPE_NBYTES, MOST_EXPERTS, ExpertLayer, TensorSpec

NAME = "store.json"
FORMAT = "moe-mlx store"
#: The newest version that is read. The lowest that says everything is written: see `Manifest.version`.
VERSION = 3
#: A manifest of a million experts takes 40 MB.
MAX_NBYTES = 64_000_000
#: Longest file name, `.tmp` left room for while it is written.
MAX_NAME_NBYTES = 250
_MODULE_PATH = re.compile(r"\w+(\.\w+)*", re.ASCII)
_TENSOR_NAME = re.compile(r"\w+(\.\w+){0,2}", re.ASCII)


def encode(manifest: Manifest) -> bytes:
    """Writes store.json: one line of digests a layer, a check value over everything else, the same bytes every time."""
    body: dict[str, Any] = {
        "format": FORMAT,
        "version": manifest.version,
        "source": manifest.source,
        "revision": manifest.revision,
        "model_type": manifest.model_type,
        "digest": digest.NAME,
        "experts_nbytes": manifest.experts_nbytes,
        "resident_nbytes": manifest.resident_nbytes,
        "resident": [_file(f) for f in manifest.resident],
        "files": [_file(f) for f in manifest.files],
        "layers": [_layer(stored, manifest.version) for stored in manifest.layers],
        **({"calibration": manifest.calibration} if manifest.version > 2 else {}),
    }
    body["check"] = check(body)
    return (json.dumps(body, indent=1) + "\n").encode()


def check(body: Mapping[str, Any]) -> str:
    """Returns the check value of a manifest: the digest of everything else in it."""
    rest = {key: value for key, value in body.items() if key != "check"}
    return digest.of([json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()])


def _file(stored: StoredFile) -> dict[str, Any]:
    return {"file": stored.name, "nbytes": stored.nbytes, "digest": stored.digest}


def _layer(stored: StoredLayer, version: int) -> dict[str, Any]:
    layer = stored.layer
    return {
        "index": layer.index,
        "layer": layer.layer,
        "path": layer.path,
        "experts": layer.experts,
        "top_k": layer.top_k,
        "data_offset": stored.data_offset,
        "expert_nbytes": layer.expert_nbytes,
        "tensors": [{"name": t.name, "dtype": t.dtype, "shape": list(t.shape)} for t in layer.tensors],
        "digests": " ".join(stored.digests),
        **(manifest_parts.described(stored) if version > 1 else {}),
        **(manifest_bits.described(stored) if version > 2 else {}),
    }


def is_plain(name: str) -> bool:
    """True for what may name a file beside the experts: every system stores it, and no terminal obeys it."""
    if not name or name.startswith(".") or name == NAME or len(name.encode(errors="replace")) > MAX_NAME_NBYTES:
        return False
    return not any(c in "/\\" or unicodedata.category(c) in ("Cc", "Cs") for c in name)


class _Reader:
    """Takes typed values out of the JSON, and says in one way what is wrong with them."""

    def __init__(self, where: Path) -> None:
        self.where = where

    def fail(self, what: str) -> NoReturn:
        raise StoreCorruptError(f"{self.where}: {what}. The store is damaged; convert the model again.")

    def get(self, table: Any, key: str, kind: type, what: str) -> Any:
        value = table.get(key) if isinstance(table, dict) else None
        if type(value) is not kind:
            self.fail(f"{what} has {key} = {str(value)[:80]!r}")
        return value

    def count(self, table: Any, key: str, what: str, least: int = 0) -> int:
        value: int = self.get(table, key, int, what)
        if not least <= value <= header.MAX_NBYTES:
            self.fail(f"{what} has {key} = {str(value)[:80]}")
        return value

    def file(self, table: Any, what: str) -> StoredFile:
        name: str = self.get(table, "file", str, what)
        if not is_plain(name):
            self.fail(f"{what} names the file {name[:80]!r}, which lies outside the store's folder")
        return StoredFile(
            name, self.count(table, "nbytes", what), self.hexdigest(table.get("digest"), f"file {name!r}")
        )

    def hexdigest(self, value: object, what: str) -> str:
        if not isinstance(value, str) or not digest.is_digest(value):
            self.fail(f"{what} has no {digest.NAME} digest")
        return value

    def tensor(self, table: Any, what: str) -> TensorSpec:
        name: str = self.get(table, "name", str, what)
        dtype: str = self.get(table, "dtype", str, what)
        shape: list[Any] = self.get(table, "shape", list, what)
        if not _TENSOR_NAME.fullmatch(name):
            self.fail(f"{what} has a tensor named {name[:80]!r}")
        if dtype not in DTYPE_NBYTES:
            self.fail(f"{what}, {name} has the unknown dtype {dtype[:80]!r}")
        if len(shape) > header.MAX_AXES or not all(type(n) is int and 0 <= n <= header.MAX_NBYTES for n in shape):
            self.fail(f"{what}, {name} has a bad shape")
        return TensorSpec(name, dtype, tuple(shape))

    def layer(self, table: Any, index: int, version: int) -> StoredLayer:
        what = f"layers[{index}]"
        if self.count(table, "index", what) != index:
            self.fail(f"{what} is out of order")
        number, experts = self.count(table, "layer", what), self.count(table, "experts", what, 1)
        top_k = self.count(table, "top_k", what, 1)
        path: str = self.get(table, "path", str, what)
        if not _MODULE_PATH.fullmatch(path) or max(number, experts) > MOST_EXPERTS:
            self.fail(f"{what} describes no layer of experts")
        if top_k > experts:
            self.fail(f"{what} chooses {top_k} of {experts} experts")
        tensors = tuple(self.tensor(t, what) for t in self.get(table, "tensors", list, what))
        if not tensors or len({t.name for t in tensors}) != len(tensors):
            self.fail(f"{what} names a tensor twice, or none")
        layer = ExpertLayer(index, number, path, experts, top_k, tensors)
        if not 0 < layer.nbytes <= header.MAX_NBYTES or self.count(table, "expert_nbytes", what) != layer.expert_nbytes:
            self.fail(f"{what}: expert_nbytes disagrees with the shapes, {layer.expert_nbytes} bytes")
        if version == 1 and "parts" in table:
            self.fail(f"{what} has parts, which version 1 does not know")
        if version < 3 and "bits" in table:
            self.fail(f"{what} has bits of each expert, which version {version} does not know")
        layout = layout_of(layer) if version == 1 else manifest_parts.read_layout(table, layer, what, self.fail)
        data_offset = self.count(table, "data_offset", what)
        if data_offset != len(expert_header(layout, 0)):
            self.fail(f"{what} has data at {data_offset}, its header is {len(expert_header(layout, 0))} bytes")
        digests = self.digests(table, "digests", experts, 1, what)
        parts = digests if version == 1 else self.digests(table, "part_digests", experts, layout.digests, what)
        fewer = manifest_bits.read_bits(table, layout, what, self.fail) if version > 2 else ()
        return StoredLayer(layout, data_offset, digests, parts, *fewer)

    def digests(self, table: Any, key: str, experts: int, each: int, what: str) -> tuple[str, ...]:
        found = tuple(self.get(table, key, str, what).split(" "))
        if len(found) != experts * each:
            self.fail(f"{what} has {len(found)} {key} for {experts} experts")
        for i, text in enumerate(found):
            self.hexdigest(text, f"{what}, expert {i // each}")
        return found


def parse(text: bytes, where: Path) -> Manifest:
    """Parses store.json and checks that it agrees with itself.

    Args:
        text: The file's bytes.
        where: Its path, named in errors.

    Raises:
        StoreCorruptError: On the first rule that is broken, or a version of the future.
    """
    r = _Reader(where)
    try:
        body = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        r.fail(f"not JSON ({error})")
    if not isinstance(body, dict) or body.get("format") != FORMAT:
        r.fail(f"not the manifest of a store (format is not {FORMAT!r})")
    version = r.count(body, "version", "the manifest", 1)
    if version > VERSION:
        raise StoreCorruptError(f"{where}: version {version} is newer than {VERSION}; update moe-mlx.")
    if body.get("digest") != digest.NAME:
        r.fail(f"digests are {str(body.get('digest'))[:80]!r}, not {digest.NAME}")
    layers = tuple(r.layer(t, i, version) for i, t in enumerate(r.get(body, "layers", list, "the manifest")))
    resident = tuple(r.file(t, "resident") for t in r.get(body, "resident", list, "the manifest"))
    files = tuple(r.file(t, "files") for t in r.get(body, "files", list, "the manifest"))
    if not layers:
        r.fail("no layers")
    if len({s.layer.layer for s in layers}) != len(layers) or len({s.layer.path for s in layers}) != len(layers):
        r.fail("two entries describe the same layer")
    if len({f.name for f in (*resident, *files)}) != len(resident) + len(files):
        r.fail("a file is listed twice")
    if not all(f.name.startswith("model") and f.name.endswith(".safetensors") for f in resident):
        r.fail("a resident shard is not named model*.safetensors")
    revision = body.get("revision")
    if revision is not None and not isinstance(revision, str):
        r.fail("revision is no text")
    manifest = Manifest(
        source=r.get(body, "source", str, "the manifest"),
        revision=revision,
        model_type=r.get(body, "model_type", str, "the manifest"),
        layers=layers,
        resident=resident,
        files=files,
        resident_nbytes=r.count(body, "resident_nbytes", "the manifest"),
        calibration=r.get(body, "calibration", str, "the manifest") if version > 2 else "",
    )
    if r.count(body, "experts_nbytes", "the manifest") != manifest.experts_nbytes:
        r.fail(f"experts_nbytes disagrees with the layers, {manifest.experts_nbytes} bytes")
    if body.get("check") != check(body):
        r.fail("the check value does not match: the manifest was changed or damaged")
    return manifest
