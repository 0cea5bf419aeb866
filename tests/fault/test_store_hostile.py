"""Fuzzed headers, manifests and configs: an error of ours or a sound result, never a crash, never a blow-up.

`MOE_MLX_FUZZ=100000` sets the number of cases of each test; CI runs a sample.
"""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moe_mlx.errors import MoeMlxError
from moe_mlx.store import header
from moe_mlx.store import manifest as manifests
from moe_mlx.store.families import FAMILIES
from moe_mlx.store.locate import Located, locate
from moe_mlx.store.manifest import parse
from moe_mlx.store.spec import DTYPE_NBYTES
from tests.store.headers import BAD, file_of
from tests.store.manifests import WHERE, good

CASES = int(os.environ.get("MOE_MLX_FUZZ", "150"))
FUZZ = settings(
    max_examples=CASES,
    derandomize="MOE_MLX_FUZZ" not in os.environ,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)

numbers = st.one_of(st.integers(-2, 9), st.integers(), st.sampled_from([1 << 31, 1 << 62, (1 << 63) - 1, 1 << 64, -1]))
leaves = st.one_of(st.none(), st.booleans(), numbers, st.floats(), st.text(max_size=8))
anything = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=8,
)
shapes = st.one_of(st.lists(numbers, max_size=4), anything)
entries = st.one_of(
    st.fixed_dictionaries(
        {
            "dtype": st.one_of(st.sampled_from(sorted(DTYPE_NBYTES)), anything),
            "shape": shapes,
            "data_offsets": st.one_of(st.lists(numbers, min_size=2, max_size=2), anything),
        }
    ),
    anything,
)
names = st.one_of(
    st.sampled_from(["a", "b", "__metadata__", "../a", "model.layers.0.mlp.switch_mlp.up_proj.weight"]),
    st.text(max_size=6),
)
tables = st.dictionaries(names, entries, max_size=5)


def peak_nbytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if os.uname().sysname == "Darwin" else 1024)


@pytest.fixture(scope="module", autouse=True)
def bounded_memory() -> Iterator[None]:
    before = peak_nbytes()
    yield
    # Hypothesis keeps what it has tried: in a long run only single cases can be told from that.
    assert CASES > 1000 or peak_nbytes() - before < 600_000_000


@contextmanager
def no_blow_up() -> Iterator[None]:
    before = peak_nbytes()
    yield
    assert peak_nbytes() - before < 200_000_000


def sound(found: header.Header, nbytes: int) -> None:
    end = 0
    for entry in found.entries.values():
        assert entry.begin == end
        end = entry.end
    assert found.data_offset + end == nbytes


@FUZZ
@given(tables, st.binary(max_size=64))
def test_headers(table: dict[str, Any], data: bytes) -> None:
    text = json.dumps(table).encode()
    try:
        with no_blow_up():
            sound(header.parse(text, 8 + len(text) + len(data), "fuzz"), 8 + len(text) + len(data))
    except header.HeaderError as error:
        assert error.kind


@FUZZ
@given(st.binary(max_size=200), st.one_of(st.none(), st.integers(0, (1 << 64) - 1)))
def test_files_of_any_bytes(contents: bytes, length: int | None) -> None:
    fd = os.memfd_create("fuzz") if hasattr(os, "memfd_create") else os.open(os.devnull, os.O_RDONLY)
    try:
        written = contents if length is None else file_of(contents, length=length)
        if hasattr(os, "memfd_create"):
            os.write(fd, written)
        with no_blow_up():
            sound(header.read(fd, "fuzz"), len(written))
    except header.HeaderError as error:
        assert error.kind
    finally:
        os.close(fd)


@FUZZ
@given(st.data())
def test_files_that_were_good_but_for_a_few_bytes(data: st.DataObject) -> None:
    contents = bytearray(data.draw(st.sampled_from(GOOD_FILES)))
    for _ in range(data.draw(st.integers(1, 4))):
        contents[data.draw(st.integers(0, len(contents) - 1))] = data.draw(st.integers(0, 255))
    contents = contents[: data.draw(st.integers(0, len(contents)))]
    text = bytes(contents[8:])
    try:
        with no_blow_up():
            header.parse(text, len(contents), "fuzz")
    except header.HeaderError as error:
        assert error.kind


GOOD_FILES = [
    header.encode([header.Entry("a", "F32", (2, 3), 0, 24), header.Entry("b", "U8", (5,), 24, 29)], {"k": "v"}, "x"),
    *(contents for _, contents in BAD.values() if 16 < len(contents) < 5000),
]


@FUZZ
@given(st.data())
def test_manifests(data: st.DataObject) -> None:
    body = json.loads(manifests.encode(good(data.draw(st.sampled_from([1, 2, 3])))))
    for _ in range(data.draw(st.integers(1, 3))):
        place: Any = body
        while True:
            key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
            if not isinstance(place[key], dict | list) or not place[key] or data.draw(st.booleans()):
                break
            place = place[key]
        place[key] = data.draw(anything)
    if data.draw(st.booleans()) and isinstance(body, dict):
        body["check"] = manifests.check(body)  # an attacker can compute it too
    written = json.dumps(body).encode()
    try:
        with no_blow_up():
            found = parse(written, WHERE)
    except MoeMlxError as error:
        assert error.exit_code == 3
    else:
        for stored in (*found.resident, *found.files):
            assert "/" not in stored.name
            assert not stored.name.startswith(".")
        assert all(stored.directory.count("..") == 0 for stored in found.layers)


@FUZZ
@given(
    st.sampled_from(sorted(FAMILIES)),
    st.dictionaries(
        st.sampled_from(
            ["num_experts", "num_experts_per_tok", "num_hidden_layers", "text_config", "ffn_config", "moe_topk"]
        ),
        st.one_of(st.integers(0, 4), anything),
    ),
    st.data(),
)
def test_configs_and_tensors(family: str, config: dict[str, Any], data: st.DataObject) -> None:
    known = FAMILIES[family]
    tensors = {}
    for _ in range(data.draw(st.integers(0, 6))):
        layer, projection = data.draw(st.integers(0, 3)), data.draw(st.sampled_from(known.projections))
        row = f"{data.draw(st.integers(0, 3))}." if known.unstacked else ""
        part = data.draw(st.sampled_from(["weight", "scales", "bias"]))
        name = f"{known.containers[0]}.{layer}.{known.switch}.{row}{projection}.{part}"
        shape = tuple(data.draw(st.lists(st.integers(0, 4), max_size=3)))
        dtype = data.draw(st.sampled_from(["F32", "U32"]))
        tensors[name] = Located(header.Entry(name, dtype, shape, 0, 0), Path("shard"), 0)
    try:
        with no_blow_up():
            layout = locate(tensors, {"model_type": family, **config}, Path("fuzz"))
    except MoeMlxError as error:
        assert error.exit_code in (2, 3)
    else:
        assert all(1 <= located.layer.top_k <= located.layer.experts for located in layout.layers)


def test_a_large_header_is_refused_without_reading_it(tmp_path: Path) -> None:
    path = tmp_path / "large.safetensors"
    with path.open("wb") as file:
        file.write((101 << 20).to_bytes(8, "little"))
        file.truncate(200 << 20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    fd = os.open(path, os.O_RDONLY)
    with pytest.raises(header.HeaderError, match="beyond"):
        header.read(fd, path)
    os.close(fd)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000
