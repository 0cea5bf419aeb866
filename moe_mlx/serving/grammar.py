"""Answers that keep to a JSON schema: llguidance says which tokens may come next, the others are ruled out.

llguidance is the `grammar` extra; without it a request that needs it is refused in so many words.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.tokenizer_utils import TokenizerWrapper

from moe_mlx.serving.drawing import Processor
from moe_mlx.serving.refusal import invalid

#: A schema longer than this is no schema of an answer.
MAX_SCHEMA = 200_000
MISSING = "this server has no grammar library: whoever runs it can install moe-mlx[grammar]"


def grammar_of(schema: dict[str, Any], param: str) -> str:
    """Returns a JSON schema as a grammar of llguidance's.

    Raises:
        RefusalError: the extra is not installed, or this schema cannot be kept to.
    """
    try:
        from llguidance import LLMatcher
    except ImportError:
        raise invalid(MISSING, param=param, code="unsupported") from None
    text = json.dumps(schema)
    if len(text) > MAX_SCHEMA:
        raise invalid(f"a schema of {len(text):,} characters is too long", param=param)
    # Without flexible white space: a small model would go on with it for ever.
    options = {"x-guidance": {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}}
    grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema | options))
    if fault := LLMatcher.validate_grammar(grammar):
        raise invalid(f"this schema cannot be kept to: {str(fault).splitlines()[0][:300]}", param=param)
    return grammar


class Grammars:
    """Grammars over one tokenizer, which is prepared when the first one is asked for."""

    def __init__(self, tokenizer: TokenizerWrapper, vocabulary: int) -> None:
        self.tokenizer, self.vocabulary = tokenizer, vocabulary
        self._prepared: Any = None

    def processor(self, grammar: str, prompt: int, said: Sequence[int]) -> Processor:
        """Returns what rules tokens out.

        Args:
            grammar: As `grammar_of` returns it.
            prompt: Tokens before the answer.
            said: Tokens of the answer that are there already.

        Raises:
            RefusalError: the tokenizer is of a kind that llguidance does not take.
        """
        from llguidance import LLMatcher

        matcher = LLMatcher(self._tokenizer(), grammar)
        if said:
            matcher.consume_tokens(list(said))
        place = prompt + len(said)

        def rule_out(tokens: mx.array, logits: mx.array) -> mx.array:
            nonlocal place
            count = int(tokens.shape[-1])
            if count > place:
                matcher.consume_tokens(tokens[place:].tolist())
                place = count
            bits = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8), bitorder="little")
            allowed = np.zeros(logits.shape[-1], dtype=bool)
            allowed[: bits.size] = bits[: allowed.size]
            if matcher.is_stopped() or not allowed.any():
                allowed[:] = False
                allowed[[token for token in self.tokenizer.eos_token_ids if token < allowed.size]] = True
            return mx.where(mx.array(allowed), logits, mx.array(-mx.inf, dtype=logits.dtype))

        return rule_out

    def _tokenizer(self) -> Any:
        if self._prepared is None:
            from llguidance.hf import from_tokenizer

            try:
                self._prepared = from_tokenizer(
                    self.tokenizer._tokenizer, n_vocab=self.vocabulary, eos_token=sorted(self.tokenizer.eos_token_ids)
                )
            except Exception:
                raise invalid(
                    "this model's tokenizer cannot be held to a grammar", param="response_format", code="unsupported"
                ) from None
        return self._prepared
