"""Which token ids a tokenizer can give, beside the rows of the embedding that looks them up. From JSON alone.

MLX does not check an index: an id beyond the last row reads other memory, or ends the process. Published models do have
tokens beyond it (an image token of a text model), and mlx-lm loads them: they are told, and refused when they are used.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moe_mlx.errors import StoreError
from moe_mlx.store.json_files import read_json

#: What models call the module that looks token ids up.
EMBEDDINGS = ("embed_tokens", "wte", "word_embeddings", "embeddings", "tok_embeddings")
_WEIGHT = re.compile(rf"(?:.*\.)?(?:{'|'.join(EMBEDDINGS)})\.weight")


@dataclass(frozen=True, slots=True)
class TokenIds:
    """What a tokenizer can give: its vocabulary's ids by token, and those of tokens added to it."""

    vocabulary: Mapping[str, int] = field(default_factory=dict)
    added: Mapping[str, int] = field(default_factory=dict)

    def check(self, rows: int, where: Path) -> str:
        """Compares the ids with the rows of the model's embedding.

        Args:
            rows: Of the embedding.
            where: The model's folder, named in the remark.

        Returns:
            A remark on tokens that the model does not have; nothing where it has all.
        """
        beyond = sorted(
            (n, token) for table in (self.vocabulary, self.added) for token, n in table.items() if n >= rows
        )
        if not beyond:
            return ""
        number, token = beyond[0]
        others = f" and {len(beyond) - 1} more" if len(beyond) > 1 else ""
        foreign = "; the tokenizer may be another model's" if any(n >= rows for n in self.vocabulary.values()) else ""
        return (
            f"{where.name}: the model's embedding has {rows} rows, so it does not know the token {token[:40]!r} "
            f"(id {number}){others}: a prompt with it is refused{foreign}"
        )


def read_token_ids(folder: Path) -> TokenIds:
    """Returns the ids that a model's JSON files name; none for files in another form, or that cannot be read."""
    vocabulary: dict[str, int] = {}
    added: dict[str, int] = {}
    described = _json(folder / "tokenizer.json")
    model = described.get("model")
    words = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(words, list):  # in the order of their ids, with scores
        words = {str(entry[0]): n for n, entry in enumerate(words) if isinstance(entry, list) and entry}
    for table in (words, _json(folder / "vocab.json")):
        vocabulary |= _ids(table)
    for entry in described.get("added_tokens") or ():
        if isinstance(entry, dict):
            added |= _ids({str(entry.get("content")): entry.get("id")})
    added |= _ids(_json(folder / "added_tokens.json"))
    decoder = _json(folder / "tokenizer_config.json").get("added_tokens_decoder")
    for number, entry in decoder.items() if isinstance(decoder, dict) else ():
        if number.isdecimal() and len(number) < 20:
            added[str(entry.get("content") if isinstance(entry, dict) else number)] = int(number)
    return TokenIds({token: number for token, number in vocabulary.items() if token not in added}, added)


def embedding_rows(shapes: Iterable[tuple[str, tuple[int, ...]]]) -> int | None:
    """Returns the rows of the embedding among (name, shape) of a model's tensors; None where none is known."""
    return max((shape[0] for name, shape in shapes if len(shape) == 2 and _WEIGHT.fullmatch(name)), default=None)


def _json(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = read_json(path)
    except StoreError:
        return {}
    return found if isinstance(found, dict) else {}


def _ids(table: object) -> dict[str, int]:
    return {token: n for token, n in table.items() if type(n) is int} if isinstance(table, dict) else {}
