"""Memory pressure on a machine of a group that shares each expert's rows: all caches shrink at one token, or grow."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from moe_mlx.conversation.leading import agreed_slots
from moe_mlx.conversation.session import Session
from moe_mlx.errors import NotTogetherError
from moe_mlx.loading.pressure import GROW, SHRINK, PressureWatch
from moe_mlx.machines.meeting import Meeting

#: As the ranks' sum has them.
_WISHES = {SHRINK: -1, GROW: 1, "": 0}


@dataclass(frozen=True)
class PressedTogether:
    """One rank's side.

    Attributes:
        session: Of this rank.
        watch: Looks at this machine's memory.
        meeting: Where ranks agree on slots.
    """

    session: Session
    watch: PressureWatch
    meeting: Meeting

    def between_tokens(self) -> None:
        """Does what all ranks wish for at this token, and looks what this one does.

        Raises:
            DoesNotFitError: pressure goes on here although every layer is down to its top_k slots.
            MachinesError: the group broke.
        """
        agreement = self.session.agreement
        if agreement is None:
            return
        if wished := agreement.wished:
            agreement.pass_over()
            self._step(SHRINK if wished < 0 else GROW)
        wish = self.watch.look()
        if wish is not None:
            agreement.wish = _WISHES[wish]
        elif agreement.wish < 0:  # said once a look, or the caches would shrink at every token until the next
            agreement.wish = 0

    def _step(self, wish: str) -> None:
        runtime = self.session.runtime
        have, cap = runtime.expert_cache_bytes, self.watch.begin(wish)
        with suppress(NotTogetherError):  # all go on as before
            slots = agreed_slots(runtime, self.meeting, cap, by_layers=False)
            runtime.sizing.resize(cap, runtime.evict, slots)
            self.watch.end(wish, have)
