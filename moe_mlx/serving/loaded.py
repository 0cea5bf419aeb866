"""The model that is served, as the generating thread loaded it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from mlx import nn
from mlx_lm.models.cache import make_prompt_cache

from moe_mlx.conversation.sampling import KVCacheSettings
from moe_mlx.loading.attachment import runtime_of
from moe_mlx.serving.limits import Room
from moe_mlx.vlm.calling import built_by_mlx_vlm

if TYPE_CHECKING:
    from mlx_lm.tokenizer_utils import TokenizerWrapper

    from moe_mlx.conversation.audit import Auditor
    from moe_mlx.conversation.keeper import Keeper
    from moe_mlx.conversation.leading import LeadingSession
    from moe_mlx.conversation.prompt_store import PromptStore
    from moe_mlx.drafting.drafting import Drafting
    from moe_mlx.loading.runtime import Runtime


class Opening(Protocol):
    """How a model comes to be loaded; on the generating thread."""

    def rehearse(self, freed: int) -> None:
        """Finds out whether it can be loaded once so many bytes are let go.

        Raises:
            MoeMlxError: it cannot.
        """

    def open(self) -> Loaded:
        """Loads it.

        Raises:
            Exception: what loading raises.
        """


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model and what belongs to it.

    Attributes:
        drafting: A smaller model that guesses tokens, whole in memory; answers are then made one by one.
        caching: The KV cache's settings.
        room: Tokens that the memory plan has room for.
        auditor: Computes every N-th token with exact routing too, or holds a price; answers are then made one by one.
        kept_sequences: Prompt caches kept at most.
        kept_bytes: Bytes that they may take; None leaves it to the memory plan.
        store: Prompt caches on disk.
        session: Leads the other machines that run parts of the model; None where there are none. Answers are then made
            one by one, and the session keeps the prompt cache of the latest.
    """

    model: nn.Module
    tokenizer: TokenizerWrapper
    drafting: Drafting | None
    caching: KVCacheSettings
    room: Room
    auditor: Auditor | Keeper | None = None
    kept_sequences: int = 10
    kept_bytes: int | None = None
    store: PromptStore | None = None
    session: LeadingSession | None = None

    @property
    def runtime(self) -> Runtime:
        """The expert cache behind the model."""
        return runtime_of(self.model)

    def batches(self) -> bool:
        """Returns whether several answers can be made in the same steps."""
        if (
            self.session is not None
            or self.drafting is not None
            or self.caching.kv_bits is not None
            or self.auditor is not None
        ):
            return False
        if built_by_mlx_vlm(self.model):  # its caches and positions are not those that mlx-lm batches
            return False
        return all(hasattr(cache, "merge") for cache in make_prompt_cache(self.model))
