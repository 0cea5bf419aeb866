"""What can be known of a model before its weights take memory: another one may have to make room for it first."""

from __future__ import annotations

from mlx_lm.tokenizer_utils import TokenizerWrapper
from mlx_lm.utils import load_config

from moe_mlx.loading.kv_room import kv_room
from moe_mlx.loading.memory import plan_load
from moe_mlx.loading.opening import Opened, open_model
from moe_mlx.loading.options import Options
from moe_mlx.loading.skeleton import build
from moe_mlx.loading.tokenizer import load_tokenizer


def rehearse(options: Options, freed: int) -> None:
    """Goes through what loading a model can fail of before its weights take memory; nothing stays open.

    Config, headers, names and shapes of all tensors, the memory plan, the tokenizer. What it cannot know is whether
    every byte can be read.

    Args:
        options: What is asked for.
        freed: Bytes of another model that will have been let go by then.

    Raises:
        MoeMlxError: as `load` raises.
    """
    opened = open_model(options)
    try:
        trusted = options.trust_remote_code
        skeleton = build(
            opened.folder,
            opened.source,
            model_config=options.model_config,
            trust_remote_code=trusted,
            pictures=options.pictures,
        )
        kv = kv_room(skeleton.model, skeleton.family, skeleton.config, options.kv)
        plan_load(options, opened.source, skeleton.resident_nbytes, kv.nbytes, lambda line: None, freed=freed)
        tokenizer_of(options, opened)
    finally:
        opened.source.close()


def tokenizer_of(options: Options, opened: Opened) -> TokenizerWrapper:
    """Returns the tokenizer of a model that is not loaded.

    Raises:
        StoreError: it is damaged or absurd, or wants its own code to run, which was not allowed.
    """
    eos = load_config(opened.folder).get("eos_token_id")
    return load_tokenizer(
        opened.folder, options.tokenizer_config, eos_token_ids=eos, trust_remote_code=options.trust_remote_code
    )
