"""What was measured of this machine: a small file in the user's cache folder.

It is read where a flag asks for it, and by `--prefetch auto`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from moe_mlx.errors import MoeMlxError, UsageError
from moe_mlx.system.folders import user_folder
from moe_mlx.system.given import check_whole
from moe_mlx.system.whole_files import write_whole

#: Reads in flight at once. One SSD queue is filled by a handful; more only adds switching (`moe-mlx bench io`).
DEFAULT_READERS = 4
#: More than any disk's queues reward; each may hold a buffer.
MOST_READERS = 256


@dataclass(frozen=True, slots=True)
class Calibration:
    """Rates of one machine, in bytes a second; None where it was not measured.

    Attributes:
        date: When the latest of them was measured.
        machine: The machine in one line.
        readers: Reader threads at which cold reads are as fast as they get.
        cold_rate: Demand reads of experts that are not in the page cache.
        warm_rate: Demand reads of experts that are.
        weight_rate: Weights that decode goes through, everything resident.
        layer_seconds: Host time that a capped layer adds to a decode step, reads not counted.
        prefetch_gain: Decode speed with prefetch as a multiple of that without.
        native_gain: Decode speed in the graph as a multiple of that with read-backs.
        crossing_seconds: A way from the model's stream to a CPU stream and back, within one graph.
        read_back_seconds: Reading a small array back in the middle of a step.
        cliff_bytes: Memory that MLX may take before using more makes it slower; None where none was met.
        ops_per_buffer: The `MLX_MAX_OPS_PER_BUFFER` at which decode was fastest; 0 for MLX's own.
    """

    date: str = ""
    machine: str = ""
    readers: int | None = None
    cold_rate: float | None = None
    warm_rate: float | None = None
    weight_rate: float | None = None
    layer_seconds: float | None = None
    prefetch_gain: float | None = None
    native_gain: float | None = None
    crossing_seconds: float | None = None
    read_back_seconds: float | None = None
    cliff_bytes: int | None = None
    ops_per_buffer: int | None = None


def calibration_path() -> Path:
    """Returns where the file lies: in `user_folder`."""
    return user_folder() / "calibration.json"


def read_calibration() -> Calibration | None:
    """Returns what was stored, or None where nothing (readable) is."""
    try:
        found = json.loads(calibration_path().read_text())
    except (OSError, ValueError, RuntimeError):  # the last: there is no home folder
        return None
    if not isinstance(found, dict):
        return None
    kinds = {"date": str, "machine": str, "readers": int, "cliff_bytes": int, "ops_per_buffer": int}
    sound = {
        field.name: found[field.name]
        for field in fields(Calibration)
        if isinstance(found.get(field.name), kinds.get(field.name, int | float))
    }
    return Calibration(**sound)


def check_readers(readers: object) -> None:
    """Refuses a number of reader threads that is none, or absurd.

    Raises:
        UsageError: it is.
    """
    check_whole("readers", readers)
    if isinstance(readers, int) and readers > MOST_READERS:
        raise UsageError(f"readers is {readers}: at most {MOST_READERS}, and a disk's queue is full with a handful")


def readers_for(asked: str) -> int:
    """Returns the reader threads that `--readers` asks for; "auto": as calibrated, else `DEFAULT_READERS`.

    Raises:
        UsageError: neither "auto" nor a number from 1 to `MOST_READERS`.
    """
    if asked == "auto":
        found = read_calibration()
        return min(found.readers, MOST_READERS) if found is not None and found.readers else DEFAULT_READERS
    if not asked.isdecimal() or not 1 <= int(asked[:9]) <= MOST_READERS:
        raise UsageError(f"--readers is {asked}: give 1 to {MOST_READERS}, or auto (a handful fills a disk's queue)")
    return int(asked)


def require_calibration() -> Calibration:
    """Returns what was stored.

    Raises:
        UsageError: nothing was.
    """
    found = read_calibration()
    if found is None:
        raise UsageError(
            "this machine is not calibrated: run `moe-mlx bench io MODEL --calibrate` and "
            "`moe-mlx bench --model MODEL --calibrate`, or name a chip with --chip"
        )
    return found


def store_calibration(**measured: object) -> Calibration:
    """Adds figures to what is stored; what is not given stays. Returns all of it.

    Raises:
        MoeMlxError: the file cannot be written.
    """
    merged = replace(read_calibration() or Calibration(), **measured)  # type: ignore[arg-type]
    try:
        write_whole(calibration_path(), json.dumps(asdict(merged), indent=1) + "\n")
    except (OSError, RuntimeError) as error:
        raise MoeMlxError(
            f"the calibration was not kept: {error}. Give $XDG_CACHE_HOME a folder that can be written to."
        ) from None
    return merged
