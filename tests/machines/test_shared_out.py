"""A store that is shared out: each process has its own layers' experts and no others, and answers as one."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.checkpoints import AFFINE4, tiny_checkpoint
from tests.machines.ranks import LIMIT, ranks

GENERATE = ("-m", "moe_mlx", "generate", "-p", "the fox", "-m", "12", "--routing", "exact", "--decode", "readback")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict]]:
    """A store and what `convert --machines` said of it."""
    folder = tmp_path_factory.mktemp("model")
    tiny_checkpoint("qwen3_moe", folder / "checkpoint", quantization=AFFINE4, num_hidden_layers=6)
    words = ["-m", "moe_mlx", "convert", "--model", str(folder / "checkpoint"), "--mlx-path", str(folder / "store")]
    done = subprocess.run(
        [sys.executable, *words, "--machines", "64GB,32GB", "--json"],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=True,
    )
    return folder / "store", json.loads(done.stdout)["machines"]


def copied(store: Path, share: dict, to: Path) -> Path:
    """Copies what a list names, as rsync would."""
    for name in Path(share["list"]).read_text().splitlines():
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        if (store / name).is_dir():
            shutil.copytree(store / name, to / name)
        else:
            shutil.copy(store / name, to / name)
    return to


def test_each_layer_goes_to_one_machine_and_the_larger_has_more(shared: tuple[Path, list[dict]]):
    store, shares = shared
    folders = [{name for name in share["names"] if name.startswith("experts/")} for share in shares]
    assert len(folders[0]) > len(folders[1]) > 0 and not folders[0] & folders[1]
    assert folders[0] | folders[1] == {f"experts/{path.name}" for path in (store / "experts").iterdir()}
    assert "experts/layer-001" in folders[1], "the last rank runs the first layers"
    whole = sum(path.stat().st_size for path in store.rglob("*") if path.is_file())
    beside = sum(path.stat().st_size for path in store.iterdir() if path.is_file())
    assert sum(share["nbytes"] for share in shares) == whole + beside


@pytest.mark.slow
def test_two_parts_answer_as_the_whole_store(shared: tuple[Path, list[dict]], tmp_path: Path):
    store, shares = shared
    parts = [copied(store, share, tmp_path / f"part-{share['rank']}") for share in shares]
    split = ",".join(str(share["layers"][1] - share["layers"][0] + 1) for share in shares)
    words = [*GENERATE, "--expert-cache", "50%", "--json"]
    with ranks(
        tmp_path, [[*words, "--parallel", "pipeline", "--split", split, "--model", str(part)] for part in parts]
    ) as group:
        assert [rank.wait() for rank in group] == [0, 0], [rank.said for rank in group]
        found = json.loads(group[0].told)
    done = subprocess.run(
        [sys.executable, *words, "--no-history", "--model", str(store)],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=True,
    )
    alone = json.loads(done.stdout)
    names = ("tokens", "hits", "misses", "bytes_read")
    assert [found[name] for name in names] == [alone[name] for name in names]


@pytest.mark.slow
def test_a_split_that_asks_for_layers_of_another_machine_is_refused(shared: tuple[Path, list[dict]], tmp_path: Path):
    store, shares = shared
    parts = [copied(store, share, tmp_path / f"part-{share['rank']}") for share in shares]
    words = [[*GENERATE, "--parallel", "pipeline", "--split", "3,3", "--model", str(part)] for part in parts]
    with ranks(tmp_path, words) as group:
        assert [rank.wait() for rank in group] == [1, 3], [rank.said for rank in group]
        assert "experts/layer-002 is not here" in group[1].said and "rank 1 (127.0.0.1): " in group[0].said
