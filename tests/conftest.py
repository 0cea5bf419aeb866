"""For every test: nothing is remembered in the home folder of whoever runs them, their settings do not count, and MLX
computes on the CPU; nor does a property fail because the machine is busy.

Golden tests compare bits, and on a GPU the gather kernels depend on the bank's size; `tests/metal` runs there, within
tolerances.
"""

import gc
import os
import signal

import mlx.core as mx
import pytest
from hypothesis import settings

from tests.rows import mark_rows_of_the_night

os.environ["MOE_MLX_HISTORY"] = "off"
os.environ["MOE_MLX_CONFIG"] = os.devnull
mx.set_default_device(mx.cpu)
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")
# A shell starts what runs in its background with interrupts ignored, and what tests start would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Three for two cores: a sixth of the time a test waits for a screen, a process or a disk."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cores + cores // 2


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """By day few rows of a long table run."""
    mark_rows_of_the_night(items)


def pytest_collection_finish() -> None:
    """What all modules brought is no rubbish, and need not be looked through at each collection."""
    gc.collect()
    gc.freeze()
