"""For every test: nothing is remembered in the home folder of whoever runs them, their settings do not count, and MLX
computes on the CPU; nor does a property fail because the machine is busy.

Golden tests compare bits, and on a GPU the gather kernels depend on the bank's size; `tests/metal` runs there, within
tolerances.
"""

import os
import signal

import mlx.core as mx
from hypothesis import settings

os.environ["MOE_MLX_HISTORY"] = "off"
os.environ["MOE_MLX_CONFIG"] = os.devnull
mx.set_default_device(mx.cpu)
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")
# A shell starts what runs in its background with interrupts ignored, and what tests start would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
