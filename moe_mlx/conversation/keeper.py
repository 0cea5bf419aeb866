"""Keeps the price that was asked for (`--quality`, `--speed`) while a model answers, and accounts for it.

It stands in front of the model's own call, as an `Auditor` does, and is given to a `Session` in its place. Every 64 to
384 tokens, and with each prompt of a conversation that goes on, it looks back at them (`look_back.LookBack`) and moves
the routing to the rung that `routing.holding` names. Steps that are queued by then are waited for, once a look; nothing
is read back otherwise. Where somebody else changes the routing, it lets go and says so.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from mlx import nn

from moe_mlx.conversation.held import HeldSummary, ladder_of, measured_rungs, unseen_error
from moe_mlx.conversation.look_back import LookBack, Looked
from moe_mlx.errors import ExpertReadError, UsageError
from moe_mlx.loading.attachment import runtime_of
from moe_mlx.routing.holding import Pace, QualityHolder
from moe_mlx.routing.price import KL, Price, read_price
from moe_mlx.routing.settings import RoutingSettings

#: Tokens at an answer's and at a conversation's end that are not looked at then, if they are fewer.
FEW, FEWER = 128, 64


class Keeper:
    """Holds a price for one model while it is entered; what it has learned of the model stays between answers.

    Attributes:
        price: What is held.
        place: Number of the rung in force.
        ladder: The rungs.
        released: Why nothing is held any more; "" while it is.
        unaudited: Why the latest tokens were not looked at, where that failed.
    """

    def __init__(self, model: nn.Module, price: Price) -> None:
        """Makes room for looking back and puts the first rung in force.

        Raises:
            UsageError: nothing of this model can be moved.
            DoesNotFitError: the plan has no room for looking back.
        """
        self.model, self.price, self.runtime = model, price, runtime_of(model)
        self.released = ""
        self.ladder = ladder_of(self.runtime, price)
        quality = price.quality
        self._plain: type[nn.Module] = type(model)
        self._look: LookBack | None = None
        self.holder: QualityHolder | None = None
        if quality is not None:
            measured = measured_rungs(self.runtime, self.ladder, quality)
            self.ladder = measured or self.ladder
            self._look = LookBack(self.runtime, self._exactly)
            self.holder = QualityHolder(self.ladder, quality.budget, self._look.most, measured=measured is not None)
        self.pace = None if price.speed is None else Pace(price.speed)
        self.place = 0 if self.holder is None or self.pace is not None else self.holder.place
        self._entered, self._skipped, self.unaudited = False, 0, ""
        self._units: list[float] = []  # what the rungs of the tokens since the last look were expected to lose
        self._before = self.runtime.routing
        self._in_force = self._before
        self._move()
        self.reset()

    def _exactly(self, *args: Any, **kwargs: Any) -> Any:
        """The model's own call, nothing in front of it."""
        return self._plain.__call__(self.model, *args, **kwargs)

    def reset(self) -> None:
        """Starts the account of the next answer."""
        self.unaudited = ""
        self._used: Counter[int] = Counter()
        self._kls = self._agreed = self._seconds = self._squares = 0.0
        self._audited = self._unseen = 0
        self._earlier = 0 if self._look is None else self._look.waiting  # of answers before
        self._bytes_before = 0 if self._look is None else self._look.scratch.bytes_read

    @property
    def why(self) -> str:
        """Why the setting in force, in a line."""
        if self.released:
            return self.released
        said = [part.why for part in (self.holder, self.pace) if part is not None]
        return "; ".join([*said, self.unaudited] if self.unaudited else said)

    @property
    def spent_share(self) -> float:
        """Loss of the tokens in the window, as a share of the quality's budget; 0 where none is held."""
        return 0.0 if self.holder is None else self.holder.spent / self.holder.budget

    def summary(self) -> HeldSummary:
        """The account since the last `reset`."""
        tokens = max(1, self._audited)
        quality = self.price.quality
        kl, agreement = self._kls / tokens, self._agreed / tokens
        unseen = self._unseen + (0 if self._look is None else self._look.waiting - self._earlier)
        spent = 0.0 if quality is None else kl if quality.measure == KL else 1 - agreement
        return HeldSummary(
            every=1,
            tokens=self._audited,
            agreement=agreement,
            kl=kl,
            bytes_read=0 if self._look is None else self._look.scratch.bytes_read - self._bytes_before,
            price=self.price.describe(),
            measure="" if quality is None else quality.measure,
            budget=0.0 if quality is None else quality.budget,
            spent=spent,
            unseen=unseen,
            spent_error=unseen_error(self._squares / tokens - spent * spent, self._audited, unseen),
            settings=tuple((self.ladder[place].describe(), self._used[place]) for place in sorted(self._used)),
            why=self.why,
            seconds=self._seconds,
        )

    def __enter__(self) -> Keeper:
        plain = type(self.model)
        self._plain, self._entered = plain, True
        self.model.__class__ = type(plain.__name__, (_Kept, plain), {"__module__": plain.__module__})
        object.__setattr__(self.model, "moe_mlx_keeper", self)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._entered:
            self.model.__class__ = self._plain
            object.__delattr__(self.model, "moe_mlx_keeper")
            self._entered = False

    def close(self) -> None:
        """Gives back the room for looking back, and the routing from before unless somebody has changed it."""
        self.__exit__()
        if self._look is not None:
            self._look.close()
            self._look = None
        if not self.released:
            self._put(self._before)
            self.released = "closed"

    def settle(self, few: int = FEW) -> None:
        """Ends an answer: looks at the tokens since the last look, unless they are few.

        A look reads almost as much for few tokens as for many; so none comes for fewer than `few` (or than the next
        look waits for). They wait for the conversation to go on, and are read along with its next prompt.
        """
        look, holder = self._look, self.holder
        waiting = 0 if look is None or holder is None or self.released else look.waiting
        if look and holder and waiting and waiting + self._skipped >= min(few, holder.stretch):
            try:
                self._take(look.look())
            except ExpertReadError as error:
                self.unaudited = f"the last tokens were not audited: {error}"
        if self.pace is not None:
            self.pace.pause()

    def _leave(self) -> None:
        """Ends a conversation: tokens that nobody has looked at by now count as the next ones do."""
        self.settle(FEWER)
        if self._look is not None:
            self._leave_out(self._look.waiting)
            self._look.forget()

    def _leave_out_dropped(self, look: LookBack) -> None:
        dropped, look.dropped = look.dropped, 0
        self._leave_out(dropped)

    def _leave_out(self, tokens: int) -> None:
        """Takes tokens that nobody will look at: first those of answers before."""
        earlier = min(tokens, self._earlier)
        self._earlier -= earlier
        self._skipped += tokens
        self._unseen += tokens - earlier

    def step(self, call: Any, inputs: Any, prompt_cache: Any, **kwargs: Any) -> Any:
        """Makes one model call; a decode step may be looked back at before."""
        look = self._look
        if prompt_cache is None or inputs.size != 1 or self.released:
            plain = prompt_cache is not None and not kwargs and not self.released
            if plain and look is not None and look.may_read_along(inputs, prompt_cache):
                self._leave_out_dropped(look)
                logits, looked = look.read_along(call, inputs, prompt_cache)
                if looked.kls:
                    self._take(looked)
                if self.pace is not None:
                    self.pace.pause()
                return logits
            self._leave()
            return call(inputs, cache=prompt_cache, **kwargs)
        if self.runtime.routing != self._in_force:
            self.released = "the routing was changed by hand: the price is not held any more"
            return self.step(call, inputs, prompt_cache, **kwargs)
        if look is not None and self.holder is not None:
            goes_on = look.goes_on(prompt_cache)
            self._leave_out_dropped(look)
            if not goes_on:
                self._leave()
                look.begin(prompt_cache)
            elif look.waiting >= self.holder.stretch:
                self._take(look.look())
        if self.pace is not None and self.pace.token(time.perf_counter(), self.place, self._most()):
            self._move(self.pace.place)
        self._used[self.place] += 1
        self._units.append(self.ladder[self.place].loss)
        logits = call(inputs, cache=prompt_cache, **kwargs)
        if look is not None:
            look.took(inputs, logits)
        return logits

    def _most(self) -> int:
        """The highest rung that the quality allows."""
        return len(self.ladder) - 1 if self.holder is None else self.holder.place

    def _take(self, looked: Looked) -> None:
        assert self.holder is not None and self.price.quality is not None
        self._audited += len(looked.kls)
        self._earlier = 0
        self._kls += sum(looked.kls)
        self._agreed += sum(looked.agreed)
        self._seconds += looked.seconds
        losses = looked.kls if self.price.quality.measure == KL else [float(not same) for same in looked.agreed]
        self._squares += sum(loss * loss for loss in losses)
        skipped, self._skipped = self._skipped, 0
        units, self._units = self._units, []
        allowed = self.holder.looked(losses, skipped, sum(units) / max(1, len(units)))
        self._move(allowed if self.pace is None else min(allowed, self.place))

    def _move(self, place: int | None = None) -> None:
        place = self.place if place is None else place
        settings = RoutingSettings(**self.ladder[place].changes())
        self.place = place
        if self._in_force is not settings and self.runtime.routing != settings:
            self._put(settings)
        self._in_force = settings

    def _put(self, settings: RoutingSettings) -> None:
        self.runtime.set_routing(**{name: getattr(settings, name) for name in RoutingSettings.__dataclass_fields__})


class _Kept:
    """Stands in front of the model's class while a keeper is entered."""

    def __call__(self: Any, inputs: Any, cache: Any = None, **kwargs: Any) -> Any:
        keeper: Keeper = self.moe_mlx_keeper
        return keeper.step(super().__call__, inputs, cache, **kwargs)  # type: ignore[misc]


def hold(model: nn.Module, *, quality: str | float | None = None, speed: str | float | None = None) -> Keeper:
    """Holds a quality or a speed while a model decodes, from now on, whoever calls it.

    Args:
        model: A model from `moe_mlx.load`.
        quality: KL a token to exact routing, in nats, such as 0.002; or the agreement to keep, such as "99%".
        speed: Tokens a second.

    Returns:
        What holds it: `summary()` is the account since `reset()`, `close()` ends it.

    Raises:
        UsageError: neither was given, a value cannot be taken, or nothing of this model can be moved.
        DoesNotFitError: the memory plan has no room for looking back.
    """
    price = read_price(quality, speed)
    if price is None:
        raise UsageError("nothing to hold: give quality, speed, or both")
    return Keeper(model, price).__enter__()
