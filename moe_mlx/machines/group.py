"""From ranks that have met to MLX's group, and from MLX's errors to ours."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import mlx.core as mx

from moe_mlx.errors import MachinesError, MoeMlxError, StepLostError, UsageError, one_line
from moe_mlx.machines.cut import cut_connections
from moe_mlx.machines.meeting import Meeting

#: Seconds that whoever lost a step gets to say why.
_SAID = 10.0
#: Waits, says why, and ends its parent: MLX connects with Python's lock held, so no thread of ours could.
_WATCH = """
import os, sys, time
parent = os.getppid()
time.sleep(float(sys.argv[1]))
if os.getppid() == parent:
    print(sys.argv[2], file=sys.stderr, flush=True)
    os.kill(parent, 9)
"""


def begin(meeting: Meeting) -> Any:
    """Makes MLX's group of the ranks that have met, and lets their meeting end its waits.

    Raises:
        MachinesError: MLX cannot connect them.
    """
    launch = meeting.launch
    line = one_line(
        f"moe-mlx: MLX ({launch.backend}) connected no machines within {meeting.patience:g} s, though all are there: "
        "does a firewall keep the ports of the hostfile closed?"
    )
    meeting.exchange("before MLX", None)
    watch = subprocess.Popen(
        [sys.executable, "-S", "-E", "-c", _WATCH, str(meeting.patience), line], stdin=subprocess.DEVNULL
    )
    try:
        group = mx.distributed.init(strict=True, backend=launch.backend)
    except (RuntimeError, ValueError) as error:
        raise MachinesError(f"MLX cannot connect the machines: {' '.join(str(error).split())[:300]}") from error
    finally:
        watch.kill()
        watch.wait()
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
