"""The models that clients may name: the one that the server began with, and those that its owner allows beside it."""

from __future__ import annotations

import argparse
import asyncio
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from mlx_lm.tokenizer_utils import TokenizerWrapper

from moe_mlx.catalogue.found import DEFAULT_FOLDERS, find_models
from moe_mlx.errors import UsageError
from moe_mlx.serving.limits import Room
from moe_mlx.serving.opening import Loading, ModelOpening, public_name
from moe_mlx.serving.prompts import Prompts
from moe_mlx.serving.refusal import RefusalError
from moe_mlx.store.resolve import find_model
from moe_mlx.system.config import model_folders
from moe_mlx.system.given import words_of

log = logging.getLogger("moe_mlx.serve")

#: What requests without a model, and mlx-lm's own, call the one that the server began with.
DEFAULT_MODEL = "default_model"
#: What the first model alone has: its adapter, its drafts, its template, the trust in its code.
_ITS_OWN: dict[str, Any] = {
    "revision": None,
    "adapter_path": None,
    "trust_remote_code": False,
    "draft_model": None,
    "chat_template": "",
}


class ServedModel:
    """One of them.

    Attributes:
        names: What it may be called, the first being shown; never a place in the file system.
        opening: How the generating thread loads it.
    """

    def __init__(self, names: Iterable[str], opening: ModelOpening, prompts: Prompts | None = None) -> None:
        self.names, self.opening = tuple(names), opening
        self._prompts = prompts
        self._preparing = asyncio.Lock()

    @property
    def prompts(self) -> Prompts:
        """Makes its prompts; after `prepare`."""
        assert self._prompts is not None
        return self._prompts

    @property
    def room(self) -> Room | None:
        """Tokens there is room for; None where nobody has asked it yet."""
        return None if self._prompts is None else self._prompts.room

    @property
    def tokenizer(self) -> TokenizerWrapper:
        """Its tokenizer, for the threads that write prompts and answers; after `prepare`."""
        return self.prompts.tokenizer

    def called(self, name: str | None) -> str:
        """Returns the name that an answer carries."""
        return name if name in self.names else self.names[0]

    async def prepare(self, template: Mapping[str, Any]) -> None:
        """Makes it ready for prompts; its weights are not read.

        Raises:
            RefusalError: it cannot be opened, whatever lies where it should be.
        """
        async with self._preparing:
            if self._prompts is not None:
                return
            try:
                tokenizer, room = await asyncio.to_thread(self.opening.for_prompts)
            except Exception as error:
                log.error("%s cannot be opened: %s", self.names[0], error)
                raise RefusalError(
                    500, "this model cannot be loaded; the server's log says why", code="model_not_loadable"
                ) from None
            self._prompts = Prompts(tokenizer, room, template=template, boundaries=True)


class Lineup:
    """All of them.

    Attributes:
        first: The model that the server began with.
    """

    def __init__(self, first: ServedModel, others: Sequence[ServedModel] = (), *, any_name: bool = False) -> None:
        """Names earlier in the order stand.

        Args:
            first: The model that the server began with.
            others: Those that are allowed beside it.
            any_name: Whether every unknown name means the first.
        """
        self.first, self._any = first, any_name
        self._by_name: dict[str, ServedModel] = {}
        for model in (first, *others):
            for name in model.names:
                self._by_name.setdefault(name, model)

    def __iter__(self) -> Iterator[tuple[str, ServedModel]]:
        """Yields names with their models."""
        return iter(self._by_name.items())

    @property
    def names(self) -> list[str]:
        """All names."""
        return list(self._by_name)

    def named(self, name: str | None) -> ServedModel:
        """Returns the model that a client means.

        Raises:
            RefusalError: another one was asked for (404); nothing is looked up for that.
        """
        if name is None or name == DEFAULT_MODEL:
            return self.first
        if (model := self._by_name.get(name)) is not None:
            return model
        if self._any:
            return self.first
        shown = ", ".join(self.names[:20]) + (", ..." if len(self.names) > 20 else "")
        raise RefusalError(
            404, f"the model {name[:200]!r} is not served here: {shown}", param="model", code="model_not_found"
        )


def allowed_models(args: argparse.Namespace, loading: Loading) -> list[ServedModel]:
    """Returns what `--allow-models` allows beside the first model: looked up once, when the server starts.

    Only what is on this machine: nothing is downloaded because a client names it.

    Raises:
        UsageError: no such model is here.
        StoreMissingError: the same, of one that was named.
    """
    if args.allow_models is None:
        return []
    if not args.allow_models:
        found = find_models(model_folders() or DEFAULT_FOLDERS)
        places = [(entry.name, entry.model) for entry in found if entry.shape is not None]
    else:
        places = []
        for model in words_of(args.allow_models):
            find_model(model, cached=True)
            places.append((public_name(model), model))
    if not places:
        raise UsageError("--allow-models: there is no model here to be allowed; `moe-mlx list` shows what is")
    return [
        ServedModel([name], ModelOpening(argparse.Namespace(**{**vars(args), **_ITS_OWN, "model": model}), loading))
        for name, model in places
        if model != args.model
    ]
