"""The verb as a user calls it: losses of mlx-lm's own resident run, an adapter that runs, what is refused."""

import json

import mlx.core as mx
import pytest
from mlx_lm import lora as resident_lora

from moe_mlx.cli import main
from tests.checkpoints import tiny_checkpoint

KEYS = ["self_attn.q_proj", "self_attn.v_proj", "mlp.gate"]
WORDS = ["alpha beta gamma delta", "beta gamma delta alpha", "gamma delta alpha beta", "delta alpha beta gamma"]
TRAINING = [
    "--iters",
    "8",
    "--batch-size",
    "2",
    "--learning-rate",
    "1e-2",
    "--steps-per-report",
    "2",
    "--num-layers",
    "-1",
    "--seed",
    "3",
    "--max-seq-length",
    "64",
    "--save-every",
    "8",
    "--steps-per-eval",
    "4",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_checkpoint("qwen3_moe", tmp_path_factory.mktemp("trained") / "model")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    for name in ("train", "valid", "test"):
        (root / f"{name}.jsonl").write_text("".join(json.dumps({"text": words}) + "\n" for words in WORDS))
    return root


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "lora.yaml"
    keys = ", ".join(KEYS)
    path.write_text(f"lora_parameters:\n  rank: 4\n  scale: 20.0\n  dropout: 0.0\n  keys: [{keys}]\n")
    return path


def test_losses_fall_as_in_the_resident_run_and_the_adapter_runs(folder, data, config, tmp_path, capsys, monkeypatch):
    options = ["--train", "--test", "--data", str(data), "--config", str(config), *TRAINING]
    words = [
        "lora",
        "--model",
        str(folder),
        "--expert-cache",
        "25%",
        *options,
        "--adapter-path",
        str(tmp_path / "ours"),
    ]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["experts"]["misses"] > 0
    assert found["train_loss"][-1][1] < 0.9 * found["train_loss"][0][1]
    assert found["test_loss"] < found["valid_loss"][0][1]

    reported = []
    run = resident_lora.train_model

    def watched(args, model, train, valid, callback):
        from moe_mlx.training.adapter import Losses

        reported.append(Losses())
        mx.disable_compile()
        try:
            return run(args, model, train, valid, reported[0])
        finally:
            mx.enable_compile()

    monkeypatch.setattr(resident_lora, "train_model", watched)
    theirs = ["mlx_lm.lora", "--model", str(folder), *options, "--adapter-path", str(tmp_path / "theirs")]
    monkeypatch.setattr("sys.argv", theirs)
    resident_lora.main()
    capsys.readouterr()
    for (_, ours), (_, wanted) in zip(found["train_loss"], reported[0].train, strict=True):
        assert ours == pytest.approx(wanted, rel=1e-3)

    generate = ["generate", "--model", str(folder), "--routing", "exact", "--prompt", "alpha beta", "-m", "8", "--json"]
    texts = []
    for adapter in ([], ["--adapter-path", str(tmp_path / "ours")], ["--adapter-path", str(tmp_path / "theirs")]):
        assert main([*generate, *adapter]) == 0
        texts.append(json.loads(capsys.readouterr().out)["text"])
    assert texts[0] != texts[1] == texts[2]


def test_the_demo_learns_under_its_cap(data, tmp_path, capsys):
    words = ["lora", "--train", "--data", str(data), "--iters", "2", "--batch-size", "1", "--num-layers", "2"]
    assert main([*words, "--adapter-path", str(tmp_path / "adapter"), "--seed", "1"]) == 0
    shown = capsys.readouterr()
    assert shown.out.strip() == str(tmp_path / "adapter")
    assert "routed experts stay as they are" in shown.err
    assert (tmp_path / "adapter/adapters.safetensors").is_file()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "give --train, --test, or both"),
        (["--train", "--fine-tune-type", "full"], "changes the experts"),
        (["--train", "--data", "none-such"], "none-such"),
        (["--train", "--config", "none.yaml"], "--config none.yaml"),
        (["--train", "--config", "EXPERTS"], "mlp.switch_mlp.up_proj adapts routed experts"),
        (["--train", "--no-such-option"], "--no-such-option"),
    ],
)
def test_what_is_refused(words, said, folder, data, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # read once, when it is imported
    experts = tmp_path / "experts.yaml"
    experts.write_text("lora_parameters:\n  rank: 4\n  scale: 20.0\n  dropout: 0.0\n  keys: [mlp.switch_mlp.up_proj]\n")
    words = [str(experts) if word == "EXPERTS" else word for word in words]
    if "--data" not in words:
        words += ["--data", str(data)]
    try:
        code = main(["lora", "--model", str(folder), *words, "--adapter-path", str(tmp_path / "adapter")])
    except SystemExit as ended:
        code = ended.code
    assert code == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "adapter").exists()


def test_an_adapter_that_is_only_tested_is_checked_as_everywhere(folder, data, tmp_path, capsys):
    words = ["lora", "--model", str(folder), "--test", "--data", str(data), "--batch-size", "2"]
    assert main([*words, "--adapter-path", str(tmp_path / "none")]) == 3
    assert "holds no adapter" in capsys.readouterr().err
    adapter = tmp_path / "experts"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    name = "model.layers.1.mlp.switch_mlp.up_proj.lora_a"
    mx.save_safetensors(str(adapter / "adapters.safetensors"), {name: mx.zeros((4, 4))})
    assert main([*words, "--adapter-path", str(adapter)]) == 2
    assert "adapts routed experts" in capsys.readouterr().err
