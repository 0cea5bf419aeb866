"""Log probabilities as OpenAI writes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mlx_lm.tokenizer_utils import TokenizerWrapper
from transformers.convert_slow_tokenizer import bytes_to_unicode

from moe_mlx.serving.job import TokenChance

_BYTE_OF = {character: byte for byte, character in bytes_to_unicode().items()}


def _named(tokenizer: TokenizerWrapper, chance: TokenChance) -> dict[str, Any]:
    text = str(tokenizer.decode([chance.token]))
    data = list(text.encode("utf-8", "replace"))
    if "\ufffd" in text:  # a piece of a character: its own bytes, where the vocabulary writes bytes
        piece = str(tokenizer.convert_ids_to_tokens(chance.token))
        if all(character in _BYTE_OF for character in piece):
            data = [_BYTE_OF[character] for character in piece]
    return {"token": text, "id": chance.token, "logprob": chance.logprob, "bytes": data}


def chat(tokenizer: TokenizerWrapper, chances: Sequence[TokenChance]) -> dict[str, Any]:
    """Returns `logprobs` of a chat completion's choice."""
    return {
        "content": [
            {**_named(tokenizer, one), "top_logprobs": [_named(tokenizer, other) for other in one.beside]}
            for one in chances
        ],
        "refusal": None,
    }


def completion(tokenizer: TokenizerWrapper, chances: Sequence[TokenChance], offset: int = 0) -> dict[str, Any]:
    """Returns `logprobs` of a completion's choice; offsets count characters from `offset`."""
    texts = [str(tokenizer.decode([one.token])) for one in chances]
    offsets = [offset + sum(map(len, texts[:place])) for place in range(len(texts))]
    return {
        "tokens": texts,
        "token_logprobs": [one.logprob for one in chances],
        "top_logprobs": [
            {str(tokenizer.decode([other.token])): other.logprob for other in one.beside} for one in chances
        ],
        "text_offset": offsets,
    }
