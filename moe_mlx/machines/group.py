"""From ranks that have met to MLX's group, and from MLX's errors to ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import mlx.core as mx

from moe_mlx.errors import MachinesError, MoeMlxError, StepLostError, UsageError, one_line
from moe_mlx.machines.connecting import limited
from moe_mlx.machines.cut import cut_connections
from moe_mlx.machines.meeting import Meeting

#: Seconds that whoever lost a step gets to say why.
_SAID = 10.0


def begin(meeting: Meeting) -> Any:
    """Makes MLX's group of the ranks that have met, and lets their meeting end its waits.

    Raises:
        MachinesError: MLX cannot connect them, or one is gone. Where that is so only once MLX connects, this process
            ends with that line and exit code 1.
    """
    launch = meeting.launch
    late = (
        f"MLX ({launch.backend}) connected no machines within {meeting.patience:g} s, though all are there: does a "
        "firewall keep the ports of the hostfile closed?"
    )
    meeting.exchange("before MLX", None)
    connections = meeting.connections()
    names = {rank: one_line(launch.named(rank)) for rank in connections}
    try:
        with limited(connections, names, meeting.patience, one_line(late)):
            if meeting.trouble:  # what was heard until now is not to be heard there any more
                raise meeting.broken()
            group = mx.distributed.init(strict=True, backend=launch.backend)
    except (RuntimeError, ValueError) as error:
        raise MachinesError(f"MLX cannot connect the machines: {' '.join(str(error).split())[:300]}") from error
    if (group.rank(), group.size()) != (launch.rank, launch.size):
        raise MachinesError(f"MLX made this rank {group.rank()} of {group.size()}, not {launch.rank} of {launch.size}")
    meeting.cut = partial(cut_connections, launch.ports)
    return group


@contextmanager
def in_group(meeting: Meeting) -> Iterator[None]:
    """Tells the others why this rank ends, and this rank why another did, whatever MLX makes of it.

    Raises:
        MachinesError: another rank failed, or its connection was lost.
    """
    try:
        yield
    except StepLostError as error:  # whoever it was says so
        raise meeting.broken(_SAID) from error
    except (MachinesError, UsageError) as error:  # what was asked for is no matter of connections
        meeting.fail(error)
        raise
    except MoeMlxError as error:
        if meeting.trouble and meeting.own is not error:  # what a lost connection led to
            raise meeting.broken() from error
        meeting.fail(error)
        raise
    except (RuntimeError, ValueError) as error:
        if meeting.trouble or _lost(error):
            raise meeting.broken() from error
        meeting.fail(f"unexpected {type(error).__name__}: {' '.join(str(error).split())[:300]}")
        raise
    except GeneratorExit:  # an answer that is left, which all ranks have stopped together
        raise
    except BaseException as error:
        meeting.fail("interrupted" if isinstance(error, KeyboardInterrupt) else f"ended ({type(error).__name__})")
        raise


def _lost(error: BaseException) -> bool:
    """Whether an error is MLX's of a connection that is gone."""
    return "[ring]" in str(error) or "[jaccl]" in str(error)
