"""Models of strangers: configs, tokenizers, templates, links and code, one handcrafted case per way of being hostile.

A case passes when loading (or converting) ends in one error of ours with its exit code, soon, with little memory, and
with none of the model's own code run. `docs/threats.md` says what we do about each.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

import moe_mlx
import moe_mlx.loading.tokenizer
from moe_mlx.cli import main
from moe_mlx.conversation.session import Sampling, Session
from moe_mlx.errors import MoeMlxError, StoreCorruptError
from moe_mlx_convert import convert
from tests.checkpoints import AFFINE4, tiny_checkpoint

Change = Callable[[Path], Any]
CODE = "from pathlib import Path\nPath(__file__).with_name('ran').touch()\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    tiny_checkpoint("qwen3_moe", folder / "checkpoint", quantization=AFFINE4)
    convert(str(folder / "checkpoint"), folder / "store")
    return folder


@pytest.fixture(params=["checkpoint", "store"])
def model(request: pytest.FixtureRequest, made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made / request.param, tmp_path / "model"))


def load(folder: Path, **options: Any) -> Any:
    options = {"expert_cache": "50%", "routing": "exact", "decode": "readback", "say": lambda line: None, **options}
    loaded, tokenizer = moe_mlx.load(folder, **options)
    return loaded, tokenizer


def edit(name: str, **fields: Any) -> Change:
    """Changes entries of a JSON file; `...` removes one."""

    def change(folder: Path) -> None:
        path = folder / name
        body = {**json.loads(path.read_text()), **fields} if path.exists() else fields
        path.write_text(json.dumps({key: value for key, value in body.items() if value is not ...}))

    return change


def config(**fields: Any) -> Change:
    return edit("config.json", **fields)


def quantized(path: str, **options: Any) -> Change:
    def change(folder: Path) -> None:
        body = json.loads((folder / "config.json").read_text())
        for key in ("quantization", "quantization_config"):
            body[key] = {**body["quantization"], path: options}
        (folder / "config.json").write_text(json.dumps(body))

    return change


def write(name: str, contents: str | bytes) -> Change:
    return lambda folder: (folder / name).write_bytes(contents.encode() if isinstance(contents, str) else contents)


def pipe(name: str) -> Change:
    return lambda folder: ((folder / name).unlink(missing_ok=True), os.mkfifo(folder / name))


def large(name: str) -> Change:
    """A sparse file larger than anything honest."""

    def change(folder: Path) -> None:
        with (folder / name).open("wb") as file:
            file.truncate(300_000_000)

    return change


HUGE = 1 << 62
CONFIGS: dict[str, tuple[int, Change]] = {
    "no JSON": (3, write("config.json", "{")),
    "a list": (3, write("config.json", "[]")),
    "nested too deep": (3, write("config.json", "[" * 200_000)),
    "too large": (3, large("config.json")),
    "a pipe": (3, pipe("config.json")),
    "a pipe beside it": (3, pipe("generation_config.json")),
    "no model type": (2, config(model_type=...)),
    "a model type that climbs out": (2, config(model_type="..utils")),
    "a key missing": (3, config(num_attention_heads=...)),
    "text for a number": (3, config(num_hidden_layers="three")),
    "a million layers": (3, config(num_hidden_layers=1_000_000)),
    "layers beyond any integer": (3, config(num_hidden_layers=1 << 70)),
    "endless layers": (3, config(num_hidden_layers=float("inf"))),
    "a million layers deeper down": (3, config(text_config={"num_hidden_layers": 1_000_000})),
    "a million kinds of layers": (3, config(layer_types=["mamba"] * 1_000_000)),
    "a pattern of a million layers": (3, config(hybrid_override_pattern="M" * 1_000_000)),
    "kinds of blocks without end, deeper down": (3, config(text_config={"layers_block_type": ["mamba"] * 99_999})),
    "a negative size": (3, config(hidden_size=-64)),
    "a size of nothing": (3, config(hidden_size=0)),
    "a size beyond any array": (3, config(hidden_size=HUGE)),
    "a vocabulary beyond any array": (3, config(vocab_size=HUGE)),
    "heads of nothing": (3, config(num_attention_heads=0)),
    "heads that take all memory": (3, config(head_dim=HUGE)),
    "a size that makes quantisation divide by zero": (3, config(hidden_size=1)),
    "the same inside the experts": (3, config(moe_intermediate_size=1)),
    "groups of nothing": (3, quantized("model.embed_tokens", group_size=0, bits=4)),
    "groups of text": (3, quantized("model.embed_tokens", group_size="x", bits=4)),
    "no such bits": (2, quantized("model.embed_tokens", group_size=32, bits=64)),
    "quantisation that is a list": (3, config(quantization=[1])),
    "a step of nothing": (3, config(decoder_sparse_step=0)),
    "experts that disagree": (3, config(num_experts=1 << 30)),
    "more chosen than there are": (3, config(num_experts_per_tok=17)),
    "more chosen than the store was made for": (3, config(num_experts_per_tok=99)),
    "a nested part that is text": (3, config(text_config="x", hidden_size=...)),
    "generation settings that are a list": (3, write("generation_config.json", "[]")),
    "an end token that is text": (3, config(eos_token_id="x")),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_a_hostile_config_is_one_error(case: str, model: Path) -> None:
    code, change = CONFIGS[case]
    change(model)
    before, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with pytest.raises(MoeMlxError) as caught:
        load(model)
    assert caught.value.exit_code == code
    assert str(model) in str(caught.value) or "config.json" in str(caught.value)
    assert time.monotonic() - begun < 30
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 500_000 * (1024 if sys.platform == "darwin" else 1)


TOKENIZER, SETTINGS = "tokenizer.json", "tokenizer_config.json"
TOKENIZERS: dict[str, tuple[int, Change]] = {
    "missing": (3, lambda folder: (folder / TOKENIZER).unlink()),
    "all of it missing": (3, lambda folder: ((folder / TOKENIZER).unlink(), (folder / SETTINGS).unlink())),
    "empty": (3, write(TOKENIZER, "")),
    "no JSON": (3, write(TOKENIZER, "{")),
    "a list": (3, write(TOKENIZER, "[]")),
    "an empty object": (3, write(TOKENIZER, "{}")),
    "no UTF-8": (3, write(TOKENIZER, b"\xff\xfe{}")),
    "nested too deep": (3, write(TOKENIZER, "[" * 200_000)),
    "too large": (3, large(TOKENIZER)),
    "a pipe": (3, pipe(TOKENIZER)),
    "an unknown kind": (3, edit(TOKENIZER, model={"type": "Nope"})),
    "a decoder that is a number": (3, edit(TOKENIZER, decoder=5)),
    "settings that are no JSON": (3, write(SETTINGS, "{")),
    "settings that are a list": (3, write(SETTINGS, "[]")),
    "a class that is a number": (3, edit(SETTINGS, tokenizer_class=5)),
    "a special token that is a table": (3, edit(SETTINGS, eos_token={"a": 1})),
    "added tokens that are numbers": (3, edit(SETTINGS, added_tokens_decoder={"x": 5})),
    "a tool parser that is none": (3, edit(SETTINGS, tool_parser_type="..utils")),
    "a template kind that is none": (3, edit(SETTINGS, chat_template_type="nope")),
    "a template that is no text": (3, write("chat_template.jinja", b"\xff\xff")),
    "a template of two megabytes": (3, write("chat_template.jinja", "x" * 2_000_000)),
}


@pytest.mark.parametrize("case", TOKENIZERS)
def test_a_broken_tokenizer_is_one_error(case: str, model: Path) -> None:
    code, change = TOKENIZERS[case]
    change(model)
    with pytest.raises(MoeMlxError) as caught:
        load(model)
    assert caught.value.exit_code == code
    assert str(model) in str(caught.value)


def test_the_command_prints_one_line_and_no_traceback(made: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(made / "store", tmp_path / "model"))
    write(TOKENIZER, "{")(model)
    words = [sys.executable, "-m", "moe_mlx", "generate", "--model", str(model), "-p", "hi", "--decode", "readback"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (3, "")
    assert "Traceback" not in done.stderr
    assert done.stderr.count("the tokenizer cannot be loaded") == 1


ESCAPES = "\x1b[2J\x9b1m\n\u202e\ud800"


GENERATE = ("generate", "-p", "hi", "--decode", "readback")
CONVERT = ("convert", "--mlx-path", "store", "--progress", "json")
SHOWN: dict[str, tuple[tuple[str, ...], Change]] = {
    "an index": (
        GENERATE,
        write("model.safetensors.index.json", json.dumps({"weight_map": {"x": ESCAPES, "y" * 99_999: ""}})),
    ),
    "a config": (GENERATE, config(num_experts_per_tok=ESCAPES)),
    "a config's claim of its KV cache": (CONVERT, config(kv_lora_rank=ESCAPES)),  # a loaded model's cache is measured
    "a long one": (GENERATE, config(num_experts="x" * 1_000_000)),
    "a model file": (GENERATE, config(model_file=ESCAPES * 10_000)),
}


@pytest.mark.parametrize(("words", "change"), SHOWN.values(), ids=SHOWN.keys())
def test_names_that_command_a_terminal_are_shown_as_text(
    words: tuple[str, ...],
    change: Change,
    made: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    model = Path(shutil.copytree(made / "checkpoint", tmp_path / "model"))
    change(model)
    assert main([*words, "--model", str(model)]) in (2, 3)
    line = capsys.readouterr().err.removesuffix("\n")
    assert line.isprintable()
    assert len(line) < 3000


UNPARSED = {
    "signs": b"-" * 300_000 + b"1",
    "names": b"a" + b".a" * 300_000,
    "sums": b"1" + b"+1" * 300_000,
    "a terabyte": None,
}


@pytest.mark.parametrize("code", UNPARSED.values(), ids=UNPARSED.keys())
def test_code_that_no_parser_takes_is_copied_unread(code: bytes | None, made: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(made / "checkpoint", tmp_path / "source"))
    edit(SETTINGS, auto_map={"AutoTokenizer": ["its_own.Tokenizer", None]})(source)
    (source / "its_own.py").write_bytes(code or b"")
    if code is None:
        os.truncate(source / "its_own.py", 1 << 40)
        with pytest.raises(MoeMlxError, match="larger than") as caught:
            convert(str(source), tmp_path / "store")
        assert caught.value.exit_code == 2
    else:
        convert(str(source), tmp_path / "store")
        assert (tmp_path / "store" / "its_own.py").read_bytes() == code


def test_more_experts_than_memory_holds_are_counted_not_listed(tmp_path: Path) -> None:
    folder = tiny_checkpoint("dbrx", tmp_path / "dbrx")
    settings = json.loads((folder / "config.json").read_text())["ffn_config"]
    config(ffn_config={**settings, "moe_num_experts": 10**30})(folder)
    begun = time.monotonic()
    with pytest.raises(StoreCorruptError, match=r"10{30} experts, 8 are there"):
        load(folder)
    assert time.monotonic() - begun < 5


def test_experts_of_no_bytes_are_no_experts(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(shutil.copytree(made / "checkpoint", tmp_path / "model"))
    weights = dict(mx.load(str(folder / "model.safetensors")))
    for name, array in weights.items():
        if ".switch_mlp." in name:
            weights[name] = mx.zeros((array.shape[0], 0, 8), array.dtype)
    mx.eval(weights)
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    for words in (["inspect", str(folder)], ["convert", "--model", str(folder), "--mlx-path", str(tmp_path / "store")]):
        assert main(words) == 3
        assert "experts of 0 bytes" in capsys.readouterr().err
    assert not (tmp_path / "store.partial").exists()


def test_a_model_that_builds_and_cannot_run_is_one_line(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Path(shutil.copytree(made / "store", tmp_path / "model"))
    config(rope_theta="x")(model)
    words = ["generate", "--model", str(model), "-p", "hi", "--decode", "readback"]
    assert main(words) == 1
    err = capsys.readouterr().err
    assert "unexpected TypeError" in err
    assert "Traceback" not in err


# Code that a model brings: refused unless it is asked for, at load and at conversion.


def with_model_file(folder: Path) -> None:
    config(model_file="its_own.py")(folder)
    (folder / "its_own.py").write_text(CODE + "from mlx_lm.models.qwen3_moe import Model, ModelArgs\n")


def with_tokenizer_code(folder: Path) -> None:
    edit(SETTINGS, auto_map={"AutoTokenizer": ["its_own.Tokenizer", None]}, tokenizer_class="Tokenizer")(folder)
    config(model_type="minimax", auto_map={"AutoConfig": "its_own.Config"})(folder)  # unknown to transformers
    (folder / "its_own.py").write_text(CODE + "class Tokenizer: pass\nclass Config: pass\n")


def test_a_model_file_runs_only_when_it_is_asked_for(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with_model_file(model)
    words = ["generate", "--model", str(model), "-p", "hi", "--decode", "readback"]
    assert main(words) == 2
    assert "--trust-remote-code" in capsys.readouterr().err
    assert not (model / "ran").exists()
    assert main([*words, "--trust-remote-code", "-m", "2"]) == 0
    assert (model / "ran").exists()


@pytest.mark.parametrize("name", ["../its_own.py", "/its_own.py", 5])
def test_a_model_file_outside_the_folder_is_refused_even_then(name: object, made: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(made / "store", tmp_path / "model"))
    config(model_file=name)(folder)
    (tmp_path / "its_own.py").write_text(CODE)
    with pytest.raises(MoeMlxError, match="no file of the model's folder") as caught:
        load(folder, trust_remote_code=True)
    assert caught.value.exit_code == 2
    assert not (tmp_path / "ran").exists()


def test_converting_a_model_with_code_refuses_it_and_never_runs_it(made: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(made / "checkpoint", tmp_path / "source"))
    with_model_file(source)
    with pytest.raises(MoeMlxError, match="--trust-remote-code") as caught:
        convert(str(source), tmp_path / "store")
    assert caught.value.exit_code == 2
    convert(str(source), tmp_path / "store", trust_remote_code=True)
    assert not (source / "ran").exists()
    assert not (tmp_path / "store" / "ran").exists()
    with pytest.raises(MoeMlxError, match="--trust-remote-code"):
        load(tmp_path / "store")


def test_a_tokenizer_s_code_is_refused_without_asking(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(made / "checkpoint", tmp_path / "model"))
    with_tokenizer_code(folder)
    monkeypatch.setattr("builtins.input", lambda prompt="": pytest.fail("it asked on the terminal"))
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    with pytest.raises(MoeMlxError, match="--trust-remote-code") as caught:
        moe_mlx.loading.tokenizer.load_tokenizer(folder, None, eos_token_ids=None, trust_remote_code=False)
    assert caught.value.exit_code == 2
    assert not (folder / "ran").exists()


# Chat templates: programs in a sandbox, rendered for a bounded time.

ENDLESS = "{% for a in range(99999) %}" * 3 + "{% endfor %}" * 3
TEMPLATES: dict[str, tuple[int, str, str]] = {
    "no template": (3, "{% for %}", "damaged"),
    "endless": (3, ENDLESS, "takes longer than"),
    "a range beyond the sandbox": (2, "{% for a in range(999999999) %}{% endfor %}", "Range too big"),
    "Python's inside": (2, "{{ messages.__class__.__mro__ }}", "unsafe"),
    "changing what it is given": (2, "{{ messages.append(1) }}", "unsafe"),
    "a refusal": (2, "{{ raise_exception('no system message, please') }}", "no system message"),
    "a name that is not there": (2, "{{ messages[0].content.nothing.at_all }}", "nothing"),
    "endless recursion": (2, "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "recursion"),
}


@pytest.mark.parametrize("case", TEMPLATES)
def test_a_hostile_template_is_one_error(
    case: str, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, template, said = TEMPLATES[case]
    folder = Path(shutil.copytree(made / "checkpoint", tmp_path / "model"))
    (folder / "chat_template.jinja").write_text(template)
    monkeypatch.setattr(moe_mlx.loading.tokenizer, "TEMPLATE_SECONDS", 1.0 if case == "endless" else 60.0)
    loaded, tokenizer = load(folder)
    talk, begun = Session(loaded, tokenizer, Sampling(max_tokens=2)), time.monotonic()
    with pytest.raises(MoeMlxError, match=said) as caught:
        talk.encode([{"role": "user", "content": "hi"}])
    assert caught.value.exit_code == code
    assert "--ignore-chat-template" in str(caught.value)
    assert time.monotonic() - begun < 20
    talk.raw = True
    assert talk.encode([{"role": "user", "content": "hi"}])


def test_quick_work_is_not_interrupted() -> None:
    for _ in range(100):
        assert moe_mlx.loading.tokenizer._within(0.2, lambda: 7) == 7
    time.sleep(0.3)


# What lies beside a store's own files.


@pytest.mark.parametrize("name", ["config.json", TOKENIZER, "chat_template.jinja", "generation_config.json"])
def test_a_link_in_a_store_is_refused_whatever_it_names(name: str, made: Path, tmp_path: Path) -> None:
    store = Path(shutil.copytree(made / "store", tmp_path / "store"))
    (tmp_path / "outside").write_text("{}")
    (store / name).unlink(missing_ok=True)
    (store / name).symlink_to(tmp_path / "outside")
    with pytest.raises(StoreCorruptError, match="symbolic link"):
        load(store)


def test_a_link_or_a_pipe_deeper_in_a_store_is_refused(made: Path, tmp_path: Path) -> None:
    store = Path(shutil.copytree(made / "store", tmp_path / "store"))
    templates = store / "additional_chat_templates"
    templates.mkdir()
    (templates / "tools.jinja").symlink_to(tmp_path / "outside")
    with pytest.raises(StoreCorruptError, match=r"tools\.jinja: a symbolic link"):
        load(store)
    pipe("tools.jinja")(templates)
    with pytest.raises(StoreCorruptError, match=r"tools\.jinja: not a regular file"):
        load(store)


@pytest.mark.parametrize("names", [["../tokenizer.1.0.json"], {"../tokenizer.1.0.json": 1}])
def test_a_tokenizer_file_elsewhere_is_not_read(names: object, model: Path, tmp_path: Path) -> None:
    (model / TOKENIZER).rename(tmp_path / "tokenizer.1.0.json")
    edit(SETTINGS, fast_tokenizer_files=names)(model)
    with pytest.raises(StoreCorruptError, match="no tokenizer file of the model's folder"):
        load(model)


def test_strange_weights_in_a_store_are_not_loaded(made: Path, tmp_path: Path) -> None:
    store = Path(shutil.copytree(made / "store", tmp_path / "store"))
    shutil.copy(store / "model.safetensors", store / "model-zzz.safetensors")
    with pytest.raises(StoreCorruptError, match=r"model-zzz\.safetensors: weights that are not in store\.json"):
        load(store)


def overlapping(text: bytes) -> bytes:
    """A safetensors file whose first tensor starts where its second one does."""
    length = int.from_bytes(text[:8], "little")
    described = json.loads(text[8 : 8 + length])
    first, second = [name for name in described if name != "__metadata__"][:2]
    described[first]["data_offsets"][0] = described[second]["data_offsets"][0]
    return text[:8] + json.dumps(described, separators=(",", ":")).encode().ljust(length) + text[8 + length :]


def test_a_resident_shard_with_a_hostile_header_never_reaches_mlx(model: Path) -> None:
    path = next(model.glob("model*.safetensors"))
    path.write_bytes(overlapping(path.read_bytes()))
    with pytest.raises(StoreCorruptError, match="safetensors file; fetch or convert it again"):
        load(model)


# Adapters: small models of strangers.


@pytest.mark.parametrize(
    "settings",
    [
        "[]",
        "{",
        "{}",
        '{"num_layers": "x", "lora_parameters": {"rank": 8, "scale": 1, "dropout": 0}}',
        '{"num_layers": 2, "lora_parameters": {"rank": 1073741824, "scale": 1, "dropout": 0}}',
        '{"num_layers": 2, "lora_parameters": {"rank": -1, "scale": 1, "dropout": 0}}',
        '{"num_layers": 2, "lora_parameters": 7}',
    ],
)
def test_a_hostile_adapter_is_one_error(settings: str, made: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(settings)
    mx.save_safetensors(str(adapter / "adapters.safetensors"), {"model.layers.0.lora_a": mx.zeros((2, 2))})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(MoeMlxError) as caught:
        load(made / "checkpoint", adapter_path=str(adapter))
    assert caught.value.exit_code == 3
    assert str(adapter) in str(caught.value)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 500_000 * (1024 if sys.platform == "darwin" else 1)
