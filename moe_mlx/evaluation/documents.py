"""What is scored: documents for perplexity and tasks with answers, read from files or from the demo's held-out set."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moe_mlx.errors import UsageError
from moe_mlx.store.demo import DEMO, demo_path
from moe_mlx.store.digest import of

#: Longest document in tokens; longer ones are cut, and each piece starts with an empty KV cache.
WINDOW = 512


@dataclass(frozen=True, slots=True)
class Task:
    """A prompt and the one answer that counts as right."""

    prompt: str
    answer: str
    skill: str = ""


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UsageError(f"{path} cannot be read: {reason}") from error


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(_read(path).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise UsageError(f"{path}, line {number}: no JSON: {error.msg}") from error
        if not isinstance(value, dict):
            raise UsageError(f"{path}, line {number}: not an object")
        yield number, value


def read_texts(data: str) -> list[str]:
    """Returns the documents of `--data`.

    Args:
        data: "demo"; a `.jsonl` file with a "text" in each line; or a text file, which is one document.

    Raises:
        UsageError: it cannot be read, or holds no document.
    """
    if data == DEMO:
        path = demo_path() / "heldout" / "text.txt"
        texts = _read(path).split("\n\n")  # the demo's documents are dialogues without blank lines
    elif data.endswith(".jsonl"):
        path = Path(data)
        texts = []
        for number, line in _lines(path):
            if not isinstance(line.get("text"), str):
                raise UsageError(f'{path}, line {number}: a document needs a "text"')
            texts.append(line["text"])
    else:
        path = Path(data)
        texts = [_read(path)]
    texts = [text for text in texts if text.strip()]
    if not texts:
        raise UsageError(f"{path} is empty: there is nothing to score")
    return texts


def read_tasks(tasks: str) -> list[Task]:
    """Returns the tasks of `--tasks`: "demo", or a JSONL file with "prompt" and "answer" in each line.

    Raises:
        UsageError: it cannot be read, or holds no task.
    """
    path = demo_path() / "heldout" / "prompts.jsonl" if tasks == DEMO else Path(tasks)
    found = []
    for number, line in _lines(path):
        if not isinstance(line.get("prompt"), str) or not isinstance(line.get("answer"), str):
            raise UsageError(f'{path}, line {number}: a task needs a "prompt" and an "answer"')
        found.append(Task(line["prompt"], line["answer"], str(line.get("skill", ""))))
    if not found:
        raise UsageError(f"{path} is empty: there is no task in it")
    return found


def spread(tasks: Sequence[Task], limit: int | None) -> list[Task]:
    """Returns `limit` tasks evenly spaced over the file, so that every skill of a sorted file has its share."""
    if limit is None or limit >= len(tasks):
        return list(tasks)
    return [tasks[place * len(tasks) // limit] for place in range(limit)]


def encode(texts: Sequence[str], tokenizer: Any, limit: int | None = None, window: int = WINDOW) -> list[list[int]]:
    """Returns documents as tokens, none longer than `window`, with at most `limit` scored tokens in all.

    The first token of a document is given; every other one is scored.

    Raises:
        UsageError: no document has two tokens.
    """
    documents: list[list[int]] = []
    left = limit if limit is not None else sum(map(len, texts)) + 1
    for text in texts:
        bare = tokenizer.bos_token is not None and text.startswith(tokenizer.bos_token)
        tokens = list(tokenizer.encode(text, add_special_tokens=not bare))
        for start in range(0, len(tokens), window):
            piece = tokens[start : start + min(window, left + 1)]
            if len(piece) > 1:
                documents.append(piece)
                left -= len(piece) - 1
            if left <= 0:
                return documents
    if not documents:
        raise UsageError("no document has two tokens: there is nothing to predict")
    return documents


def digest_of(documents: Sequence[Sequence[int]], tasks: Sequence[Task]) -> str:
    """Tells one set of tokens and tasks from another."""
    plain = [list(map(list, documents)), [[task.prompt, task.answer] for task in tasks]]
    return of([json.dumps(plain).encode()])
