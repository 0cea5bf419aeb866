"""`moe-mlx eval --against`: a model beside the one that it was made of."""

import json
from pathlib import Path

import pytest

from moe_mlx.cli import main
from moe_mlx.errors import UsageError
from moe_mlx.evaluation.against import said_by
from moe_mlx.evaluation.progress import Progress
from moe_mlx.evaluation.results import Report
from moe_mlx.evaluation.scoring import PROTOCOL
from tests.checkpoints import AFFINE4, tiny_checkpoint
from tests.evaluation.conftest import TEXT
from tests.fewer_bits import drawn_store


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, a text, and stores of its experts at 4 bits and at bits by lot."""
    folder = tmp_path_factory.mktemp("against")
    tiny_checkpoint("qwen3_moe", folder / "source", quantization=AFFINE4)
    (folder / "text.txt").write_text(TEXT)
    layers = range(len(drawn_layers(folder)))
    drawn_store(folder / "source", folder / "same", same=dict.fromkeys(layers, 4))
    drawn_store(folder / "source", folder / "fewer")
    return folder


def drawn_layers(folder: Path) -> list[object]:
    from moe_mlx.store import open_source

    with open_source(folder / "source") as source:
        return list(source.layers)


def words(folder: Path, model: str, *more: str) -> list[str]:
    common = ["--data", str(folder / "text.txt"), "--tasks", "none", "--limit-tokens", "20", "--decode", "readback"]
    return ["eval", "--model", str(folder / model), "--against", str(folder / "source"), *common, *more]


def test_what_fewer_bits_cost_is_told_beside_the_model_they_are_of(made: Path, capsys) -> None:
    asked = ["--expert-cache", "50%", "--routing", "exact"]
    found = {}
    for model in ("same", "fewer"):
        assert main([*words(made, model, *asked), "--json"]) == 0
        found[model] = json.loads(capsys.readouterr().out)
    (same,), (fewer,) = (found[model]["rows"] for model in found)
    assert (same["kl"], same["agreement"], same["ppl_change"]) == (0.0, 1.0, 0.0)
    assert fewer["kl"] > 0
    assert fewer["kl_error"] > 0
    assert fewer["bytes_per_token"] < same["bytes_per_token"]
    assert found["same"]["reference"] == found["fewer"]["reference"], "both are beside the same run"
    assert main(words(made, "fewer", *asked)) == 0
    out, err = capsys.readouterr()
    assert "fewer beside source: 20 tokens" in err
    assert " ±" in out


def test_what_needs_this_model_s_own_run_is_refused(made: Path, tmp_path: Path, capsys) -> None:
    assert main(words(made, "same", "--routing", "exact,belady")) == 2
    assert main(words(made, "same", "--routing", "exact", "--trace", str(tmp_path / "t.npz"))) == 2
    assert "leave --trace and belady" in capsys.readouterr().err
    plain = [word for word in words(made, "fewer") if word not in ("--against", str(made / "source"))]
    assert main([*plain, "--routing", "exact", "--expert-cache", "50%", "--trace", str(tmp_path / "t.npz")]) == 2
    assert "those of this store differ" in capsys.readouterr().err


def test_other_tokens_are_told(made: Path) -> None:
    report = Report("", "", "", 3, 0, PROTOCOL)
    with pytest.raises(UsageError, match="makes other tokens of this text"):
        said_by(
            str(made / "source"),
            [TEXT],
            [[1, 2, 3, 4]],
            [],
            report,
            Progress(1),
            cache="50%",
            decode="readback",
            limit=3,
        )
