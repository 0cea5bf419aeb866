"""A store that is shared out: each process has its own layers' experts, or rows of all, and answers as one."""

import io
import json
import shutil
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from moe_mlx.cli import main
from moe_mlx.errors import StoreCorruptError, UsageError
from moe_mlx.store import open_source
from moe_mlx.store.described import description_digest
from moe_mlx.store.row_share import RowShare
from moe_mlx_convert import take_rows, verify
from tests.checkpoints import AFFINE4, tiny_checkpoint
from tests.machines.ranks import LIMIT, ranks

GENERATE = ("-m", "moe_mlx", "generate", "-p", "the fox", "-m", "12", "--routing", "exact", "--decode", "readback")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict]]:
    """A store and what `convert --machines` said of it."""
    folder = tmp_path_factory.mktemp("model")
    tiny_checkpoint("qwen3_moe", folder / "checkpoint", quantization=AFFINE4, num_hidden_layers=6)
    words = ["convert", "--model", str(folder / "checkpoint"), "--mlx-path", str(folder / "store")]
    with redirect_stdout(io.StringIO()) as told:
        assert main([*words, "--machines", "64GB,32GB", "--json"]) == 0
    return folder / "store", json.loads(told.getvalue())["machines"]


def copied(store: Path, share: dict, to: Path) -> Path:
    """Copies what a list names, as rsync would."""
    for name in Path(share["list"]).read_text().splitlines():
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        if (store / name).is_dir():
            shutil.copytree(store / name, to / name)
        else:
            shutil.copy(store / name, to / name)
    return to


def answer_of_one(words: list[str], store: Path) -> dict[str, Any]:
    """What one process makes of the whole store, as `--json` tells it."""
    done = subprocess.run(
        [sys.executable, *words, "--no-history", "--model", str(store)],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


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
    alone = answer_of_one(words, store)
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


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict]]:
    """A store with row blocks and what `convert --machines --parallel tensor` made of it."""
    folder = tmp_path_factory.mktemp("rows")
    # Rows of a page and more, or nothing of a file could be a hole.
    tiny_checkpoint("qwen3_moe", folder / "checkpoint", quantization=AFFINE4, moe_intermediate_size=512)
    words = ["convert", "--model", str(folder / "checkpoint"), "--mlx-path", str(folder / "store")]
    words += ["--row-blocks", "8", "--machines", "64GB,32GB", "--parallel", "tensor", "--json"]
    with redirect_stdout(io.StringIO()) as told:
        assert main(words) == 0
    return folder / "store", json.loads(told.getvalue())["machines"]


def taken(path: Path) -> int:
    return sum(one.stat().st_blocks for one in (path / "experts").rglob("*.safetensors"))


def test_each_machine_has_its_rows_of_every_expert_and_holes(rows: tuple[Path, list[dict]]):
    store, shares = rows
    assert [share["blocks"] for share in shares] == [[0, 5], [6, 7]], "the larger has more"
    parts = [Path(share["folder"]) for share in shares]
    assert all(taken(part) < taken(store) for part in parts) and taken(parts[1]) < taken(parts[0])
    for part, (first, last) in zip(parts, ([0, 5], [6, 7]), strict=True):
        assert description_digest(open_source(part)) == description_digest(open_source(store))
        report = verify(part)
        assert report.ok and f"only row blocks {first} to {last}" in " ".join(report.remarks)
        with open_source(store) as whole, open_source(part) as own:
            ours, theirs = (RowShare(source, range(first, last + 1)) for source in (own, whole))  # type: ignore[arg-type]
            for index, layer in enumerate(ours.layers):
                for expert in range(layer.experts):
                    read = [bytearray(layer.expert_nbytes) for _ in range(2)]
                    for source, data in zip((ours, theirs), read, strict=True):
                        places, begin = [], 0
                        for tensor in layer.tensors:
                            places.append(memoryview(data)[begin : begin + tensor.nbytes])
                            begin += tensor.nbytes
                        source.read_into(index, expert, places)
                    assert read[0] == read[1]


def test_what_needs_rows_that_are_elsewhere_is_refused_by_name(
    rows: tuple[Path, list[dict]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    part = Path(rows[1][1]["folder"])
    with open_source(part) as source, pytest.raises(UsageError, match="row blocks 6 to 7 of every expert are here"):
        RowShare(source, range(5, 8))  # type: ignore[arg-type]
    assert main(["generate", "-p", "x", "--no-history", "--model", str(part)]) == 3
    assert "only row blocks 6 to 7 of every expert are here, for --parallel tensor" in capsys.readouterr().err
    with open_source(part) as source, pytest.raises(UsageError, match="and the others"):
        take_rows(source, range(1), tmp_path / "again")  # type: ignore[arg-type]
    copy = Path(shutil.copytree(part, tmp_path / "copy"))
    for text in ("[]", '{"first": 6, "last": 8, "of": 8}', '{"first": 6, "last": 7, "of": 16}'):
        (copy / "rows.json").write_text(text)
        with pytest.raises(StoreCorruptError, match="no row blocks of a store that has 8"):
            open_source(copy)


@pytest.mark.slow
def test_two_processes_with_their_rows_alone_answer_as_the_whole_store(rows: tuple[Path, list[dict]], tmp_path: Path):
    store, shares = rows
    words = [*GENERATE, "--expert-cache", "50%", "--json"]
    more = ["--parallel", "tensor", "--split", "6,2"]
    with ranks(tmp_path, [[*words, *more, "--model", share["folder"]] for share in shares]) as group:
        assert [rank.wait() for rank in group] == [0, 0], [rank.said for rank in group]
        found = json.loads(group[0].told)
    alone = answer_of_one(words, store)
    assert [found[name] for name in ("tokens", "bytes_read")] == [alone[name] for name in ("tokens", "bytes_read")]
