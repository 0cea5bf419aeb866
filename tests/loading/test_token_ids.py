"""Ids beyond the embedding never reach MLX's lookup: told at convert, verify and load, refused in use."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm
import pytest

import moe_mlx
from moe_mlx.cli import main
from moe_mlx.errors import UsageError
from moe_mlx.loading.proof import prove
from moe_mlx.store.token_ids import TokenIds, read_token_ids
from moe_mlx_convert import convert
from tests.checkpoints import AFFINE4, tiny_checkpoint
from tests.families.configs import FAMILIES

ROWS = 128


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ids")
    tiny_checkpoint("qwen3_moe", folder / "checkpoint", quantization=AFFINE4)
    convert(str(folder / "checkpoint"), folder / "store", prove=prove)
    return folder


def with_token(folder: Path, token: str, number: int, *, added: bool) -> Path:
    path = folder / "tokenizer.json"
    body = json.loads(path.read_text())
    if added:
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        body["added_tokens"].append({"id": number, "content": token, "special": True, **flags})
    body["model"]["vocab"][token] = number
    path.write_text(json.dumps(body))
    return folder


def load(folder: Path) -> tuple[Any, Any, list[str]]:
    said: list[str] = []
    model, tokenizer = moe_mlx.load(folder, expert_cache="50%", decode="readback", routing="exact", say=said.append)
    return model, tokenizer, said


@pytest.mark.parametrize("added", [True, False], ids=["added", "of the vocabulary"])
@pytest.mark.parametrize("number", [ROWS, 10**8])
def test_a_token_beyond_the_embedding_is_told_and_refused_in_use(
    number: int, added: bool, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    token = "<image>" if added else "q"
    source = with_token(Path(shutil.copytree(made / "checkpoint", tmp_path / "source")), token, number, added=added)
    said = f"does not know the token {token!r} (id {number})"
    assert main(["convert", "--model", str(source), "--mlx-path", str(tmp_path / "store")]) == 0
    assert said in capsys.readouterr().err
    assert main(["verify", str(tmp_path / "store")]) == 0
    assert said in capsys.readouterr().err
    model, tokenizer, lines = load(tmp_path / "store")
    assert any(said in line for line in lines)
    for prompt in (f"see {token}", f"{token} and say"):
        with pytest.raises(UsageError, match=f"token id {number}: .* {ROWS} rows"):
            mlx_lm.generate(model, tokenizer, prompt, max_tokens=2)
    words = ["generate", "--model", str(tmp_path / "store"), "-m", "2", "--decode", "readback", "-p"]
    assert main([*words, f"see {token}"]) == 2
    assert main([*words, "see it"]) == 0


@pytest.mark.parametrize("ids", [[5, ROWS], [10**8], [[5, 6], [7, -200]], [2**31 - 1, 3]])
def test_ids_handed_in_through_python_are_refused(ids: list[Any], made: Path) -> None:
    model, _, _ = load(made / "store")
    with pytest.raises(UsageError, match=rf"ids from 0 to {ROWS - 1}"):
        model(mx.array(ids if isinstance(ids[0], list) else [ids]))


def test_a_decode_step_is_not_read_back_and_never_another_token_s(made: Path) -> None:
    from mlx_lm.models.cache import make_prompt_cache

    model, _, _ = load(made / "store")
    cache = make_prompt_cache(model)
    model(mx.array([[5, 6]]), cache=cache)
    model(mx.array([[7]]), cache=cache)
    embedding = model.model.embed_tokens
    found = embedding(mx.array([[ROWS], [3], [10**8]]))
    assert mx.isnan(found).all(axis=-1).tolist() == [[True], [False], [True]]
    expected, _ = mlx_lm.load(str(made / "checkpoint"))
    assert mx.array_equal(found[1], expected.model.embed_tokens(mx.array([3])))


@pytest.mark.parametrize("family", [name for name in FAMILIES if "+" not in name])
def test_every_family_s_embedding_is_found(family: str) -> None:
    from mlx_lm import utils

    from moe_mlx.loading.token_ids import CheckedIds, check_lookups
    from tests.families.configs import config

    settings = config(family)
    model_class, args_class = utils._get_classes(settings)
    model = model_class(args_class.from_dict(settings))
    check_lookups(model)
    assert [module for module in model.modules() if isinstance(module, CheckedIds)]


def test_ids_are_read_from_whatever_files_name_them(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(
        json.dumps({"model": {"vocab": [["a", 0.0], ["b", -1.0]]}, "added_tokens": [{"id": 7, "content": "<x>"}, 5]})
    )
    (tmp_path / "added_tokens.json").write_text('{"<y>": 8}')
    (tmp_path / "vocab.json").write_text('{"c": 2, "d": "three"}')
    (tmp_path / "tokenizer_config.json").write_text('{"added_tokens_decoder": {"9": {"content": "<z>"}, "x": {}}}')
    found = read_token_ids(tmp_path)
    assert found == TokenIds({"a": 0, "b": 1, "c": 2}, {"<x>": 7, "<y>": 8, "<z>": 9})
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_text("[")
    assert read_token_ids(tmp_path).added == {"<y>": 8}
    assert TokenIds({"a": 1}).check(2, tmp_path) == ""
