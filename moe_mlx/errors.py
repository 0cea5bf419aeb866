"""One tree of exceptions: each says what is wrong, where, and what to do next, and carries its exit code."""

from __future__ import annotations

from pathlib import Path


class MoeMlxWarning(UserWarning):
    """Something a user should hear of once: a fallback taken, a family routed exactly."""


#: Longest message: two long paths and what is said of them.
LONGEST = 2000


def one_line(text: object) -> str:
    """Returns a text as one line that a terminal only shows: names in it come from a stranger's files.

    Controls, line breaks, surrogates and marks that turn the direction of writing come out as escapes; of a text that
    is longer than `LONGEST` characters the middle is left out, for the next step stands at the end.
    """
    whole = str(text)
    if len(whole) > LONGEST:
        whole = f"{whole[: LONGEST - 500]} [...] {whole[-500:]}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in whole)


class MoeMlxError(Exception):
    """Root of every error raised on purpose, its message one line. `exit_code` is what the command line returns."""

    exit_code = 1

    def __init__(self, message: object = "") -> None:
        super().__init__(one_line(message))


class UsageError(MoeMlxError):
    """A parameter or an argument that cannot be taken."""

    exit_code = 2


#: One model keeps one state of slots, and MLX one set of streams a thread.
TWO_THREADS = "another thread is using this model: one thread at a time, or load it twice"


class UnsupportedModelError(UsageError):
    """A model that is no mixture of experts, or whose experts are laid out in a way we do not know."""


class StoreError(MoeMlxError):
    """A store or checkpoint that is missing, incomplete or corrupt."""

    exit_code = 3


class StoreMissingError(StoreError):
    """No store, checkpoint or file where one was named."""


class StoreCorruptError(StoreError):
    """Bytes on disk that contradict their own description."""


class ExpertReadError(StoreCorruptError):
    """One expert could not be read whole: names layer, expert and file."""

    def __init__(self, layer: int, expert: int, path: Path | str, reason: str) -> None:
        self.layer, self.expert, self.path, self.reason = layer, expert, Path(path), reason
        super().__init__(
            f"layer {layer}, expert {expert}: {reason} ({path}). "
            "`moe-mlx verify` finds damage in a store; then convert again. Fetch a damaged checkpoint again."
        )


class NotFiniteError(MoeMlxError):
    """A model whose numbers are none: its answer would be made of nothing."""


class SlotsBusyError(MoeMlxError):
    """A layer has too few slots left, because stalled reads still hold the others."""


class ThreadsRefusedError(MoeMlxError):
    """The system lets this process start no more threads."""

    def __init__(self) -> None:
        super().__init__(
            "the system lets this program start no more threads. Raise the limit (ulimit -u, or pids.max of its "
            "container), or end other programs."
        )


class MachinesError(MoeMlxError):
    """Several machines that run one model, and one of them is missing, gone, silent, or failed: says which."""


class StepLostError(MachinesError):
    """A step of several machines in which a read or a connection of one of them failed: nothing of it may be used."""


class DoesNotFitError(MoeMlxError):
    """An expert cache below the floor (top_k slots a layer) or above what memory can hold."""

    exit_code = 4


class NotTogetherError(DoesNotFitError):
    """An expert cache that not every one of several machines can have: all of them know, and none changed anything."""
