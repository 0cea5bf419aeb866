"""The verbs convert, verify and inspect: what they print where, and their exit codes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from moe_mlx.cli import main
from tests.checkpoints import make_checkpoint


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("commands")
    make_checkpoint(folder / "source", num_experts=8, mlp_only_layers=[0], num_hidden_layers=3)
    assert main(["convert", "--hf-path", str(folder / "source"), "--mlx-path", str(folder / "store")]) == 0
    return folder


def test_convert_json(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["convert", "--model", str(made / "source"), "--mlx-path", str(tmp_path / "s"), "--json", "--no-compare"]
    assert main(words) == 0
    out, err = capsys.readouterr()
    summary = json.loads(out)
    assert err == ""
    assert (summary["layers"], summary["experts"], summary["compared"]) == (2, 16, False)
    stored = sum(p.stat().st_size for p in (tmp_path / "s").rglob("*") if p.is_file())
    assert summary["bytes_written"] == stored - (tmp_path / "s/store.json").stat().st_size


def test_convert_says_that_nothing_was_compared(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", "--model", str(made / "source"), "--mlx-path", str(tmp_path / "a"), "--no-compare"]) == 0
    assert "NOT compared" in capsys.readouterr().out
    assert main(["convert", "--model", str(made / "source"), "--mlx-path", str(tmp_path / "b")]) == 0
    assert "every byte compared" in capsys.readouterr().out


def test_verify(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = tmp_path / "store"
    assert main(["convert", "--model", str(made / "source"), "--mlx-path", str(store)]) == 0
    capsys.readouterr()
    assert main(["verify", str(store)]) == 0
    assert "every digest as in the manifest" in capsys.readouterr().out
    damaged = {"experts/layer-002/expert-005.safetensors": -1, "model.safetensors": -5, "config.json": 3}
    damaged["experts/layer-001/expert-000.safetensors"] = 20  # in the header, which no digest covers
    for name, place in damaged.items():
        data = bytearray((store / name).read_bytes())
        data[place] ^= 16
        (store / name).write_bytes(data)
    (store / "experts/layer-001/expert-007.safetensors").unlink()
    (store / "model-extra.safetensors").write_bytes(b"")
    assert main(["verify", str(store), "--json"]) == 3
    report = json.loads(capsys.readouterr().out)
    assert not report["ok"]
    found = {(d["layer"], d["expert"], d["file"]) for d in report["damage"]}
    assert found == {
        (None, None, "config.json"),
        (None, None, "model.safetensors"),
        (None, None, "model-extra.safetensors"),
        (1, 0, "experts/layer-001/expert-000.safetensors"),
        (1, 7, "experts/layer-001/expert-007.safetensors"),
        (2, 5, "experts/layer-002/expert-005.safetensors"),
    }
    assert main(["verify", str(store)]) == 3
    err = capsys.readouterr().err
    assert "layer 2, expert 5: experts/layer-002/expert-005.safetensors: digest is" in err


def test_verify_of_a_checkpoint_says_that_it_has_no_digests(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(made / "source")]) == 2
    assert "no digests" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["store", "checkpoint"])
def test_inspect(form: str, made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = made / ("store" if form == "store" else "source")
    assert main(["inspect", str(folder), "--json"]) == 0
    described = json.loads(capsys.readouterr().out)
    per_expert = 3 * 64 * 32 * 4
    assert described["form"] == form
    assert [(x["layer"], x["experts"], x["top_k"], x["bytes_per_expert"]) for x in described["layers"]] == [
        (1, 8, 2, per_expert),
        (2, 8, 2, per_expert),
    ]
    assert [cap["slots_per_layer"] for cap in described["caps"]] == [2, 2, 4, 6, 8]
    assert [cap["expert_cache_bytes"] for cap in described["caps"]] == [n * 2 * per_expert for n in (2, 2, 4, 6, 8)]
    weights = sum(p.stat().st_size for p in (made / "source").glob("*.safetensors"))
    assert 0 <= weights - described["experts_bytes"] - described["resident_bytes"] < 10_000
    assert main(["inspect", str(folder)]) == 0
    text = capsys.readouterr().out
    assert "12.5%" in text
    cached = described["page_cache"]
    assert cached is None or (0 <= cached["bytes"] <= described["experts_bytes"] and not cached["estimate"])
    assert ("% of the experts" in text) == (cached is not None)
    assert "1-2" in text


def test_help_imports_no_mlx() -> None:
    code = (
        "import sys; from moe_mlx.cli import main\n"
        "for verb in ('convert', 'verify', 'inspect'):\n"
        "    try: main([verb, '--help'])\n"
        "    except SystemExit: pass\n"
        "assert not {'mlx', 'mlx_lm', 'numpy', 'textual', 'huggingface_hub'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_copying_bytes_and_reading_stores_imports_no_mlx(made: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from moe_mlx.cli import main; from moe_mlx_convert import convert\n"
        f"convert({str(made / 'source')!r}, {str(tmp_path / 's')!r})\n"
        f"assert main(['verify', {str(tmp_path / 's')!r}]) == 0\n"
        f"assert main(['inspect', {str(tmp_path / 's')!r}]) == 0\n"
        "assert not {'mlx', 'mlx_lm', 'numpy', 'textual', 'huggingface_hub'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_the_progress_bar_is_for_terminals(made: Path, tmp_path: Path) -> None:
    import os
    import pty

    parent, child = pty.openpty()
    words = [
        sys.executable,
        "-m",
        "moe_mlx",
        "convert",
        "--model",
        str(made / "source"),
        "--mlx-path",
        str(tmp_path / "s"),
    ]
    done = subprocess.run([*words, "--json"], check=True, stdout=subprocess.PIPE, stderr=child)
    os.close(child)
    shown = os.read(parent, 100_000).decode()
    os.close(parent)
    assert "writing" in shown
    assert "GB/s" in shown
    json.loads(done.stdout)


def test_an_interrupted_conversion_names_what_it_keeps_and_how_to_go_on(made: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "moe_mlx", "convert", "--model", str(made / "source"), "--progress", "json"]
    command += ["--mlx-path", f"{tmp_path / 's'}/"]
    slowly = "import os, runpy, sys, time; sync = os.fsync\n"
    slowly += "os.fsync = lambda fd: (time.sleep(0.3), sync(fd))[1]\n"
    slowly += "sys.argv = sys.argv[1:]; runpy.run_module('moe_mlx', run_name='__main__')"
    process = subprocess.Popen(
        [sys.executable, "-c", slowly, *command[2:]], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    assert json.loads(process.stderr.readline())["pass"] == "writing"
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and f"{tmp_path / 's'}.partial keeps what is written" in err, err
    assert subprocess.run(command, check=False, capture_output=True, timeout=60).returncode == 0
    assert (tmp_path / "s" / "store.json").is_file()


@pytest.fixture(scope="module")
def quantised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("version-2")
    make_checkpoint(folder / "source", quantize={"group_size": 32, "bits": 4}, num_hidden_layers=1)
    assert main(["convert", "--model", str(folder / "source"), "--mlx-path", str(folder / "store")]) == 0
    return folder


def test_version_2_is_asked_for_and_shown(quantised: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = tmp_path / "models/two"
    words = ["convert", "--model", str(quantised / "source"), "--mlx-path", str(store), "--nested", "--row-blocks"]
    assert main(words) == 0
    assert "; version 2: high bits first, 16 row blocks" in capsys.readouterr().out
    assert main(["verify", str(store)]) == 0
    assert main(["plan", str(store), "--memory", "16GB"]) == 0
    assert main(["list", str(store.parent)]) == 0
    capsys.readouterr()
    assert main(["inspect", str(store)]) == 0
    text = capsys.readouterr().out
    assert "a store of version 2 (high bits first, 16 row blocks)" in text
    assert "coarse 2-down4" in text
    assert main(["inspect", str(store), "--json"]) == 0
    described = json.loads(capsys.readouterr().out)
    (layer,) = described["layers"]
    assert (described["version"], layer["row_blocks"], len(layer["parts"])) == (2, 16, 4)
    sizes = layer["coarse_bytes_per_expert"]
    assert 0.5 < sizes["2"] / layer["bytes_per_expert"] < sizes["2-down4"] / layer["bytes_per_expert"] < 1


def test_a_store_is_upgraded_beside_itself_and_in_its_place(
    quantised: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Path(shutil.copytree(quantised / "store", tmp_path / "store"))
    assert main(["inspect", str(store), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["version"] == 1
    assert main(["convert", "--upgrade", str(store), "--nested", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["method"], summary["destination"]) == ("upgrade", f"{store}-v2")
    assert main(["convert", "--upgrade", str(store), "--nested", "--replace"]) == 0
    assert capsys.readouterr().out.startswith(f"source -> {store}\n")
    assert main(["inspect", str(store), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["version"] == 2
    assert not Path(f"{store}-v2").exists()


WITHOUT_EFFECT = {
    "an upgrade to nothing": (["--upgrade", "{}/store"], "say how"),
    "a checkpoint in its own place": (["--model", "{}/source", "--nested", "--replace"], "--replace belongs to"),
    "an upgrade at a revision": (["--upgrade", "{}/store", "--nested", "--revision", "x"], "--revision belongs to"),
    "an upgrade not compared": (["--upgrade", "{}/store", "--nested", "--no-compare"], "--no-compare belongs to"),
    "no blocks": (["--model", "{}/source", "--row-blocks", "0"], "'0' is no number of blocks"),
    "a checkpoint upgraded": (["--upgrade", "{}/source", "--nested"], "no store"),
    "both": (["--upgrade", "{}/store", "--model", "{}/source"], "not allowed with"),
    "neither": (["--nested"], "one of the arguments"),
}


@pytest.mark.parametrize("case", WITHOUT_EFFECT)
def test_options_without_effect_are_refused(
    case: str, quantised: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words, told = WITHOUT_EFFECT[case]
    filled = [word.format(quantised) for word in words]
    try:
        code = main(["convert", *filled, "--mlx-path", str(tmp_path / "made")])
    except SystemExit as ended:
        code = int(ended.code or 0)
    assert code == 2
    assert told in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
