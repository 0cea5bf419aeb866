"""One handcrafted manifest per way of being wrong; a good one survives the round trip."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from moe_mlx.errors import StoreCorruptError
from moe_mlx.store import manifest as manifests
from moe_mlx.store.layout import Manifest
from moe_mlx.store.manifest import parse
from tests.store.manifests import DIGEST, WHERE, good


@pytest.mark.parametrize("version", [1, 2, 3])
def test_round_trip(version: int) -> None:
    text = manifests.encode(good(version))
    assert json.loads(text)["version"] == version
    assert parse(text, WHERE) == good(version)
    assert text == manifests.encode(good(version))


def set_layer(**fields: Any) -> Callable[[dict[str, Any]], None]:
    return lambda body: body["layers"][0].update(fields)


def set_tensor(**fields: Any) -> Callable[[dict[str, Any]], None]:
    return lambda body: body["layers"][0]["tensors"][0].update(fields)


def set_file(**fields: Any) -> Callable[[dict[str, Any]], None]:
    return lambda body: body["files"][0].update(fields)


def set_body(**fields: Any) -> Callable[[dict[str, Any]], None]:
    return lambda body: body.update(fields)


BAD: dict[str, tuple[str, Callable[[dict[str, Any]], Any]]] = {
    "another format": ("not the manifest", set_body(format="gguf")),
    "version from the future": ("newer than 3; update moe-mlx", set_body(version=4)),
    "version zero": ("version = 0", set_body(version=0)),
    "version as text": ("version = '1'", set_body(version="1")),
    "another digest": ("digests are 'md5'", set_body(digest="md5")),
    "no layers": ("no layers", set_body(layers=[])),
    "layers missing": ("layers = 'None'", lambda body: body.pop("layers")),
    "a layer that is text": ("index = 'None'", lambda body: body["layers"].__setitem__(0, "x")),
    "layers out of order": ("out of order", lambda body: body["layers"].reverse()),
    "the same layer twice": ("same layer", set_layer(layer=2)),
    "a negative layer": ("layer = -1", set_layer(layer=-1)),
    "an absurd layer": ("describes no layer", set_layer(layer=10**9)),
    "a path that climbs out": ("describes no layer", set_layer(path="../../etc")),
    "no experts": ("experts = 0", set_layer(experts=0)),
    "more chosen than there are": ("chooses 9 of 3", set_layer(top_k=9)),
    "a count that is true": ("experts = 'True'", set_layer(experts=True)),
    "a digest missing": ("2 digests for 3 experts", set_layer(digests=f"{DIGEST} {DIGEST}")),
    "a digest too short": ("expert 1 has no xxh3-128", set_layer(digests=f"{DIGEST} abc {DIGEST}")),
    "sizes that disagree": ("expert_nbytes disagrees", set_layer(expert_nbytes=17)),
    "data elsewhere": ("has data at 8", set_layer(data_offset=8)),
    "an unknown dtype": ("unknown dtype", set_tensor(dtype="Q4_K")),
    "a negative shape": ("bad shape", set_tensor(shape=[-2, -3])),
    "an absurd shape": ("expert_nbytes disagrees", set_tensor(shape=[1 << 60, 1 << 60])),
    "too many axes": ("bad shape", set_tensor(shape=[1] * 1000)),
    "a tensor's name that climbs out": ("tensor named", set_tensor(name="../x")),
    "a tensor twice": ("twice", lambda body: body["layers"][0]["tensors"].append(body["layers"][0]["tensors"][0])),
    "no tensors": ("twice, or none", set_layer(tensors=[])),
    "a file that climbs out": ("outside the store", set_file(file="../config.json")),
    "a file with an absolute path": ("outside the store", set_file(file="/etc/passwd")),
    "a file in a folder": ("outside the store", set_file(file="a/config.json")),
    "a file named by a line feed": ("outside the store", set_file(file="a\nb")),
    "a file named by a control": ("outside the store", set_file(file="a\x9b2J")),
    "a file that no system can name": ("outside the store", set_file(file="\ud800.json")),
    "a file of a name too long": ("outside the store", set_file(file="n" * 300)),
    "a hidden file": ("outside the store", set_file(file=".netrc")),
    "the manifest itself": ("outside the store", set_file(file="store.json")),
    "a file of negative size": ("nbytes = -1", set_file(nbytes=-1)),
    "a file without digest": ("has no xxh3-128", set_file(digest=None)),
    "a file twice": ("listed twice", lambda body: body["files"].append(body["files"][0])),
    "a resident shard by another name": ("not named model", lambda body: body["resident"][0].update(file="x.bin")),
    "totals that disagree": ("experts_nbytes disagrees", set_body(experts_nbytes=1)),
    "a revision that is a number": ("revision", set_body(revision=3)),
    "a value changed": ("check value", set_body(resident_nbytes=11)),
    "the check value gone": ("check value", lambda body: body.pop("check")),
    "an entry more": ("check value", set_body(extra=1)),
}


@pytest.mark.parametrize("case", BAD)
def test_each_failure_is_told(case: str) -> None:
    message, change = BAD[case]
    _refused(good(), message, change)


def cut(layer: dict[str, Any]) -> None:
    layer["digests"] = layer["digests"].rpartition(" ")[0]


BAD_PARTS: dict[str, tuple[str, Callable[[dict[str, Any]], object]]] = {
    "no row blocks": ("row_blocks = 'None'", lambda body: body["layers"][0].pop("row_blocks")),
    "row blocks that are true": ("row_blocks = 'True'", set_layer(row_blocks=True)),
    "too many row blocks": ("row_blocks = '65'", set_layer(row_blocks=65)),
    "row blocks that divide no rows": ("not rows for 3 blocks", set_layer(row_blocks=3)),
    "a tensor without rows in blocks": (
        "not rows for 2 blocks",
        lambda body: (set_tensor(shape=[])(body), set_layer(expert_nbytes=196, halves=[])(body)),
    ),
    "no halves": ("halves = 'None'", lambda body: body["layers"][0].pop("halves")),
    "halves that are no list": ("halves = '7'", set_layer(halves=7)),
    "a half that is text": ("has halves =", set_layer(halves=["x"])),
    "a half that is true": ("halves = ", set_layer(halves=[[0, True, 2]])),
    "more halves than tensors": ("halves = ", set_layer(halves=[[i, 4, 2] for i in range(7)])),
    "a tensor cut twice": ("cuts a tensor twice", set_layer(halves=[[0, 4, 2], [0, 4, 2]])),
    "halves out of order": ("or out of order", set_layer(halves=[[3, 4, 2], [0, 4, 2]])),
    "a tensor that is not there": ("no tensor 9", set_layer(halves=[[9, 4, 2]])),
    "a tensor before the first": ("no tensor -1", set_layer(halves=[[-1, 4, 2]])),
    "scales cut": ("scales is no packed weight", set_layer(halves=[[1, 4, 2]])),
    "bits that do not split": ("codes of 5 bits", set_layer(halves=[[0, 5, 2]])),
    "bits that split elsewhere": ("do not split at 1", set_layer(halves=[[0, 4, 1]])),
    "rows that no codes fill": ("codes of 6 bits fill", set_layer(halves=[[0, 6, 4]])),
    "a weight of another dtype": ("no packed weight", set_tensor(dtype="I32")),
    "parts that disagree": ("parts disagree", lambda body: body["layers"][0]["parts"][1].update(nbytes=1)),
    "parts in another order": ("parts disagree", lambda body: body["layers"][0]["parts"].reverse()),
    "no parts": ("parts disagree", set_layer(parts=[])),
    "a part's digest missing": ("23 part_digests for 3 experts", set_layer(part_digests=" ".join([DIGEST] * 23))),
    "a part's digest too short": (
        "expert 1 has no xxh3-128",
        set_layer(part_digests=" ".join([DIGEST] * 8 + ["abc"] + [DIGEST] * 15)),
    ),
    "an expert's digest missing": ("2 digests for 3", lambda body: cut(body["layers"][0])),
    "data elsewhere": ("has data at 8", set_layer(data_offset=8)),
    "no version": ("version = ", lambda body: body.pop("version")),
}


@pytest.mark.parametrize("case", BAD_PARTS)
def test_each_failure_of_parts_is_told(case: str) -> None:
    message, change = BAD_PARTS[case]
    _refused(good(2), message, change)


BAD_BITS: dict[str, tuple[str, Callable[[dict[str, Any]], object]]] = {
    "no bits": ("bits = 'None' for 3 experts", lambda body: body["layers"][0].pop("bits")),
    "bits that are no text": ("bits = '[2, 4, 3]'", set_layer(bits=[2, 4, 3])),
    "bits of fewer experts": ("bits = '24' for 3 experts", set_layer(bits="24")),
    "bits that no code has": ("bits = '254'", set_layer(bits="254")),
    "bits that are no digits": ("bits = '2x3'", set_layer(bits="2x3")),
    "other bits in memory": ("held_bits = '8'", set_layer(held_bits=8)),
    "an error that is text": ("error = '0.1'", set_layer(error="0.1")),
    "an error that is true": ("error = 'True'", set_layer(error=True)),
    "a negative error": ("error = '-1.0'", set_layer(error=-1.0)),
    "an error that is none": ("error = 'nan'", set_layer(error=float("nan"))),
    "halves beside": (
        "fewer bits and halves",
        lambda body: body["layers"][0].update(json.loads(manifests.encode(good(2)))["layers"][0] | {"row_blocks": 2}),
    ),
    "float weights": ("is no packed weight of 4 bits", set_tensor(dtype="F32")),
    "no calibration": ("calibration = 'None'", lambda body: body.pop("calibration")),
    "a part's digest missing": ("2 part_digests for 3 experts", set_layer(part_digests=f"{DIGEST} {DIGEST}")),
}


@pytest.mark.parametrize("case", BAD_BITS)
def test_each_failure_of_bits_is_told(case: str) -> None:
    message, change = BAD_BITS[case]
    _refused(good(3), message, change)


@pytest.mark.parametrize("version", [1, 2])
def test_version_3_read_as_an_older_one_is_told(version: int) -> None:
    """Whoever takes experts of fewer bits for whole ones reads past the ends of their files."""
    body = json.loads(manifests.encode(good(3)))
    body["version"] = version
    if version == 1:
        del body["layers"][0]["parts"]
    body["check"] = manifests.check(body)
    with pytest.raises(StoreCorruptError, match=f"bits of each expert, which version {version} does not know"):
        parse(json.dumps(body).encode(), WHERE)


def _refused(manifest: Manifest, message: str, change: Callable[[dict[str, Any]], object]) -> None:
    body = json.loads(manifests.encode(manifest))
    change(body)
    with pytest.raises(StoreCorruptError) as caught:
        parse(json.dumps(body).encode(), WHERE)
    assert message in str(caught.value)
    assert str(WHERE) in str(caught.value)


def test_version_2_read_as_version_1_is_told() -> None:
    """Whoever takes a nested store's experts for tensors one behind the other computes with other numbers."""
    body = json.loads(manifests.encode(good(2)))
    body["version"] = 1
    body["check"] = manifests.check(body)
    with pytest.raises(StoreCorruptError, match="which version 1 does not know"):
        parse(json.dumps(body).encode(), WHERE)


def test_an_expert_of_absurdly_many_tensors_is_not_cut() -> None:
    body = json.loads(manifests.encode(good(2)))
    body["layers"][0]["tensors"] = [{"name": f"a.t{i}", "dtype": "U8", "shape": [64]} for i in range(65)]
    body["layers"][0]["expert_nbytes"] = 65 * 64
    body["layers"][0].update(halves=[], row_blocks=64)
    with pytest.raises(StoreCorruptError, match="65 tensors"):
        parse(json.dumps(body).encode(), WHERE)


@pytest.mark.parametrize("text", [b"", b"{", b"\xff", b"[]", b"null", b"[" * 200_000, b'{"version": ' + b"9" * 5000])
def test_what_is_no_json_is_told(text: bytes) -> None:
    with pytest.raises(StoreCorruptError, match=r"store\.json: not"):
        parse(text, WHERE)


@pytest.mark.parametrize("version", [1, 2, 3])
def test_every_flipped_byte_is_told(version: int) -> None:
    text = manifests.encode(good(version))
    for place in range(len(text)):
        flipped = bytearray(text)
        flipped[place] ^= 1
        try:
            assert parse(bytes(flipped), WHERE) == good(version)  # white space
        except StoreCorruptError:
            continue
