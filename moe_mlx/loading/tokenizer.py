"""A model's tokenizer and chat template, through mlx-lm: files of a stranger, so every failure is one error of ours.

Both are read by transformers, which raises some twenty kinds of exceptions over a damaged file. A chat template is a
program: it is rendered in transformers' sandbox, and for a bounded time.
"""

from __future__ import annotations

import ctypes
import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from mlx_lm import utils
from mlx_lm.tokenizer_utils import TokenizerWrapper

from moe_mlx.errors import (
    MoeMlxError,
    StoreCorruptError,
    ThreadsRefusedError,
    UnsupportedModelError,
    UsageError,
)
from moe_mlx.system.threads import is_refusal

T = TypeVar("T")

#: The largest tokenizer known is 40 MB, the longest template 30 kB.
MAX_TOKENIZER_NBYTES = 256_000_000
MAX_TEMPLATE_LENGTH = 1_000_000
#: A template takes milliseconds; one that still runs after this is no template.
TEMPLATE_SECONDS = 10.0


class _TooLongError(BaseException):
    """Raised inside work that took too long; no `except Exception` on its way stops it."""


def load_tokenizer(
    folder: Path, options: dict[str, Any] | None, *, eos_token_ids: Any, trust_remote_code: bool
) -> TokenizerWrapper:
    """Loads the tokenizer in a model's folder.

    Args:
        folder: A store or checkpoint.
        options: Passed to transformers' `AutoTokenizer`.
        eos_token_ids: Of the model's config.
        trust_remote_code: Whether the tokenizer may bring code of its own; never asked on the terminal.

    Raises:
        UnsupportedModelError: it wants its own code to run, and that was not allowed.
        StoreCorruptError: damaged, incomplete or absurd.
    """
    for path in sorted(folder.glob("tokenizer*")):
        if path.is_file() and path.stat().st_size > MAX_TOKENIZER_NBYTES:
            raise StoreCorruptError(f"{path}: larger than {MAX_TOKENIZER_NBYTES} bytes; this is no tokenizer.")
    _check_names(folder)
    options = {"trust_remote_code": trust_remote_code, **(options or {})}
    try:
        tokenizer = utils.load_tokenizer(folder, options, eos_token_ids=eos_token_ids)
        sample, template = tokenizer.encode("a b"), tokenizer.chat_template
    except MoeMlxError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":  # a panic of Rust code
            raise
        raise _explained(folder, error) from error
    if not sample:
        raise StoreCorruptError(f"{folder}: no tokenizer there (tokenizer.json and the like); fetch the model again.")
    if len(str(template)) > MAX_TEMPLATE_LENGTH:
        raise StoreCorruptError(f"{folder}: a chat template of {len(str(template))} characters is none.")
    return tokenizer


def _check_names(folder: Path) -> None:
    """Refuses a config that names tokenizer files elsewhere, which transformers would open.

    Raises:
        StoreCorruptError: it does.
    """
    path = folder / "tokenizer_config.json"
    try:
        config = json.loads(path.read_bytes()) if path.is_file() else None
    except (ValueError, RecursionError):
        return  # no JSON: transformers' own error tells more
    names = config.get("fast_tokenizer_files") if isinstance(config, dict) else None
    for name in names if isinstance(names, list | dict) else ():
        if not isinstance(name, str) or Path(name).name != name:
            raise StoreCorruptError(f"{path}: {str(name)[:80]!r} is no tokenizer file of the model's folder.")


def _explained(folder: Path, error: BaseException) -> MoeMlxError:
    text = " ".join(str(error).split())[:200] or type(error).__name__
    if is_refusal(error) or "ThreadPoolBuildError" in text:  # the latter: of Rust code, in a panic
        return ThreadsRefusedError()
    if "trust_remote_code" in str(error) or "custom code" in str(error):
        return UnsupportedModelError(
            f"{folder}: the tokenizer wants code of its own to run. If you trust it, pass --trust-remote-code."
        )
    return StoreCorruptError(
        f"{folder}: the tokenizer cannot be loaded: {text}. Its files, or config.json, are damaged; fetch them again."
    )


#: What templates call the reasoning of an earlier answer; the first is ours.
THOUGHTS = ("reasoning_content", "reasoning", "thinking")


def _readable(message: dict[str, Any]) -> dict[str, Any]:
    """Returns a message whose reasoning stands under every name that a template may look for; none where none is."""
    if message["role"] != "assistant":
        return message
    thought = message.get(THOUGHTS[0])
    plain = {name: value for name, value in message.items() if name not in THOUGHTS}
    return {**plain, **dict.fromkeys(THOUGHTS, thought)} if thought else plain


def apply_template(tokenizer: TokenizerWrapper, messages: Sequence[dict[str, Any]], **options: Any) -> list[int]:
    """Returns a conversation's tokens as the model's chat template writes it.

    Args:
        tokenizer: Of the model.
        messages: `role` and `content`; of an answer also `reasoning_content` and `tool_calls`, apart from its content.
        options: As for `apply_chat_template`.

    Raises:
        UsageError: the template refuses this conversation, such as a system message or a role it does not know.
        StoreCorruptError: it is no template, or takes longer than `TEMPLATE_SECONDS`.
    """
    from jinja2 import TemplateSyntaxError

    hint = "Run without it: --ignore-chat-template."
    shown = [_readable(message) for message in messages]
    try:
        return list(_within(TEMPLATE_SECONDS, lambda: tokenizer.apply_chat_template(shown, **options)))
    except _TooLongError:
        raise StoreCorruptError(f"the model's chat template takes longer than {TEMPLATE_SECONDS:g} s. {hint}") from None
    except TemplateSyntaxError as error:
        raise StoreCorruptError(
            f"the model's chat template is damaged: {error} (line {error.lineno}). {hint}"
        ) from error
    except Exception as error:
        if is_refusal(error):
            raise
        text = " ".join(str(error).split())[:200] or type(error).__name__
        raise UsageError(f"the model's chat template does not take this conversation: {text}. {hint}") from error


def _within(seconds: float, work: Callable[[], T]) -> T:
    """Runs Python code, and interrupts it when its time is over; one long operation in C goes on to its end."""
    thread, lock, over = threading.get_ident(), threading.Lock(), threading.Event()

    def interrupt() -> None:
        with lock:
            if not over.is_set():
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(_TooLongError))

    timer = threading.Timer(seconds, interrupt)
    timer.daemon = True
    try:
        timer.start()
        return work()
    finally:
        with lock:
            over.set()
        timer.cancel()
