"""A tiny checkpoint of each router kind, and models under a cap that are closed after their test."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import moe_mlx
from moe_mlx.evaluation.setting import Setting
from moe_mlx.evaluation.trace import Trace, load_trace
from tests.checkpoints import tiny_checkpoint

TEXT = "Once upon a time a router met sixteen experts, and it could only keep half of them in mind."


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Verdicts of the person who runs the tests are neither read nor written."""
    monkeypatch.setattr("moe_mlx.history.verdicts.user_folder", lambda: tmp_path / "home")
    return tmp_path / "home"


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Family and seed -> the folder of its tiny random checkpoint."""
    root = tmp_path_factory.mktemp("evaluated")

    def make(family: str = "qwen3_moe", seed: int = 0) -> Path:
        folder = root / f"{family}-{seed}"
        return folder if folder.exists() else tiny_checkpoint(family, folder, seed=seed)

    return make


@pytest.fixture
def capped(checkpoint: Callable[..., Path]) -> Iterator[Callable[..., tuple[Any, Any]]]:
    """Family and arguments of `moe_mlx.load` -> model and tokenizer; by default half the experts, in Python."""
    models = []

    def load(family: str = "qwen3_moe", **settings: Any) -> tuple[Any, Any]:
        settings = {"expert_cache": "50%", "decode": "readback", "say": lambda line: None, **settings}
        model, tokenizer = moe_mlx.load(checkpoint(family), **settings)
        models.append(model)
        return model, tokenizer

    yield load
    for model in models:
        moe_mlx.runtime_of(model).close()


@pytest.fixture
def evaluate(capped: Callable[..., tuple[Any, Any]], tmp_path: Path) -> Callable[..., Any]:
    """Settings -> the report of an evaluation of the tiny model on `TEXT`, and a trace where one is named."""
    from moe_mlx.evaluation.documents import digest_of, encode
    from moe_mlx.evaluation.progress import Progress
    from moe_mlx.evaluation.results import Report
    from moe_mlx.evaluation.run import Evaluation
    from moe_mlx.store.identity import identity_of

    def run(settings: list[Setting], *, family: str = "qwen3_moe", trace: Path | None = None, tasks: Any = ()) -> Any:
        model, tokenizer = capped(family)
        documents = encode([TEXT, TEXT[::-1]], tokenizer, 60)
        tokens = sum(len(document) - 1 for document in documents)
        identity = identity_of(moe_mlx.runtime_of(model).source)
        report = Report(identity, family, digest_of(documents, tasks), tokens, len(tasks), "")
        Evaluation(model, tokenizer, documents, tasks, report, Progress(1)).run(settings, trace)
        return report

    return run


@pytest.fixture
def traced(evaluate: Callable[..., Any], tmp_path: Path) -> Callable[..., tuple[Trace, Any]]:
    """A setting -> the trace of the tiny model under it, and the row that was measured."""

    def run(setting: Setting, family: str = "qwen3_moe") -> tuple[Trace, Any]:
        path = tmp_path / "trace.npz"
        report = evaluate([setting], family=family, trace=path)
        return load_trace(path), report.rows[setting.key]

    return run
