"""One tiny real model for all tests of the app that need an engine."""

import argparse

import pytest

from tests.checkpoints import AFFINE4, tiny_checkpoint


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """The folder of a tiny random checkpoint."""
    return tiny_checkpoint("qwen3_moe", tmp_path_factory.mktemp("tiny"), quantization=AFFINE4)


@pytest.fixture
def arguments(tiny):
    """Makes the arguments of `moe-mlx chat` for the tiny model."""
    from moe_mlx.commands import chat

    def make(*more):
        parser = argparse.ArgumentParser()
        chat.add_arguments(parser)
        return parser.parse_args(["--model", str(tiny), "--expert-cache", "50%", "--max-tokens", "12", *more])

    return make


@pytest.fixture
def engine(arguments):
    """A running engine over the tiny model."""
    from moe_mlx_tui.engine.engine import Engine

    engine = Engine(arguments())
    engine.start()
    yield engine
    engine.close()
