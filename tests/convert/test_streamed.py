"""A repository that is converted while it is downloaded: the store of its folder, each shard deleted in its turn."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from moe_mlx.store import open_source
from moe_mlx_convert import convert
from tests.checkpoints import make_checkpoint
from tests.fake_hub import FakeHub

REPO = "owner/name"
#: Five shards of two layers: some experts lie in two of them.
SHARD = 110_000


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[FakeHub]:
    make_checkpoint(tmp_path / "there", shard_bytes=SHARD, num_experts=8)
    hub = FakeHub(tmp_path / "there", REPO)
    yield hub
    hub.close()


def run(hub: FakeHub, cache: Path, store: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "moe_mlx", "convert", "--model", REPO, "--mlx-path", str(store), "--json"]
    return subprocess.run(
        [*command, *options],
        check=False,
        env={**os.environ, **hub.environment(cache), "HF_HOME": str(cache.parent / "home")},
        capture_output=True,
        text=True,
        timeout=120,
    )


def weights(folder: Path) -> dict[str, Any]:
    with open_source(folder) as source:
        buffers = {}
        for layer in source.layers:
            for expert in range(layer.experts):
                parts = [memoryview(bytearray(spec.nbytes)) for spec in layer.tensors]
                source.read_into(layer.index, expert, parts)
                buffers[layer.layer, expert] = [bytes(part) for part in parts]
        return buffers


def shards_in(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.rglob("model*.safetensors") if path.exists())


def test_a_broken_download_resumes_and_no_shard_outlives_its_use(hub: FakeHub, tmp_path: Path) -> None:
    cache, store = tmp_path / "cache", tmp_path / "store"
    shards = sorted(path.name for path in hub.folder.glob("model*.safetensors"))
    assert len(shards) >= 4
    last = hub.folder / shards[-1]
    blobs = []
    hub.broken = {last.name}
    broken = run(hub, cache, store, "--delete-source-shards")
    assert broken.returncode == 3, broken.stderr
    assert last.name in broken.stderr and "resumes" in broken.stderr and not store.exists()
    left = shards_in(cache)
    assert set(left) < set(shards[:-1]), "only what the last shard's experts share with others is still there"
    blobs = [path for path in cache.rglob("blobs/*") if path.stat().st_size > SHARD // 2]
    assert len(blobs) == len(left)

    hub.broken, hub.whole = set(), []
    whole = run(hub, cache, store, "--delete-source-shards")
    assert whole.returncode == 0, whole.stderr
    fetched = {name for name in hub.whole if name.startswith("model-")}
    assert fetched == {last.name}, "what was written before is not fetched again"
    summary = json.loads(whole.stdout)
    assert summary["files_resumed"] > 0 and summary["compared"] and summary["source"] == REPO
    assert not shards_in(cache)

    convert(str(hub.folder), tmp_path / "copied")
    assert weights(store) == weights(tmp_path / "copied")
    resident = [(path.stat().st_size, path.name) for path in store.glob("model*.safetensors")]
    assert len(resident) > 1, "a shard of resident weights for each shard that holds some"


def test_shards_in_other_folders_are_neither_fetched_nor_deleted(hub: FakeHub, tmp_path: Path) -> None:
    index = hub.folder / "model.safetensors.index.json"
    told = json.loads(index.read_text())
    (hub.folder / "elsewhere").mkdir()
    for shard in set(told["weight_map"].values()):
        (hub.folder / shard).rename(hub.folder / "elsewhere" / shard)
    told["weight_map"] = {name: f"elsewhere/{shard}" for name, shard in told["weight_map"].items()}
    index.write_text(json.dumps(told))
    done = run(hub, tmp_path / "cache", tmp_path / "store", "--delete-source-shards")
    assert done.returncode == 2 and "names shards in other folders" in done.stderr, done.stderr
    assert not [name for name in hub.whole if name.endswith(".safetensors")]


def test_deleting_is_refused_where_nothing_was_fetched(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "checkpoint")
    with pytest.raises(Exception, match="no hub repository"):
        convert(str(folder), tmp_path / "store", delete_source_shards=True)
    assert (folder / "model.safetensors").is_file() and not (tmp_path / "store").exists()
