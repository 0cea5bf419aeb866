"""What mlx-lm, or mlx-vlm, makes of a checkpoint, as lazy arrays, one of them alive at a time.

MLX and those are imported here and nowhere else in the converter, and only when a checkpoint needs them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from moe_mlx.errors import MoeMlxError, StoreCorruptError, UnsupportedModelError
from moe_mlx.store.durable import Fs
from moe_mlx.store.families import MLX_VLM, library_of
from moe_mlx.store.schemes import scheme_of, unpacked
from moe_mlx_convert.errors import ConvertError
from moe_mlx_convert.sources import Sources

#: Quantisation that mlx-lm unpacks after `sanitize`: what it can load of it becomes an MLX checkpoint first.
_UNPACKED_LATER = ("awq", "gptq", "bitnet")


def sanitized(root: Path, shards: Sequence[Path]) -> dict[str, Any]:
    """Returns a checkpoint's weights, lazy, under the names and in the shapes of mlx-lm's model.

    Raises:
        UnsupportedModelError: A model that mlx-lm cannot build, or quantised in a way that it unpacks later.
        StoreCorruptError: Files that mlx-lm cannot read, weights that its `sanitize` stumbles over.
    """
    import mlx.core as mx
    from mlx_lm import utils

    weights: dict[str, Any] = {}
    try:
        config = dict(utils.load_config(root))
        for shard in shards:
            weights |= cast(dict[str, Any], mx.load(str(shard)))
    except OSError:
        raise
    except Exception as error:  # what mlx reads more strictly than we do: encodings, dtypes, names of tensors
        raise StoreCorruptError(f"{root}: mlx-lm cannot read it ({error}). Fetch it again.") from error
    if library_of(config) == MLX_VLM:
        from moe_mlx.vlm.building import sanitized as made_by_mlx_vlm

        try:
            return made_by_mlx_vlm(root, config, weights)
        except MoeMlxError:
            raise
        except Exception as error:
            raise StoreCorruptError(f"{root}: mlx-vlm cannot build this model ({error}). Fetch it again.") from error
    found = scheme_of(config)
    if found is not None and found[0] in _UNPACKED_LATER:
        if not _loads(root):
            packed = [name for name in weights if name.endswith(".qweight")]
            raise unpacked(root, config, (packed or list(weights))[0])
        raise UnsupportedModelError(
            f"{root}: its weights are quantised as {found[1]}, which mlx-lm unpacks. "
            "Make an MLX checkpoint with mlx_lm.convert first, then convert that."
        )
    try:
        model_class, args_class = utils._get_classes(config)
        model = model_class(args_class.from_dict(config))
    except Exception as error:
        raise UnsupportedModelError(f"{root}: mlx-lm cannot build this model ({error}).") from error
    try:
        return dict(model.sanitize(weights)) if hasattr(model, "sanitize") else weights
    except Exception as error:
        raise StoreCorruptError(
            f"{root}: mlx-lm cannot make sense of the weights ({error!r}). Fetch it again."
        ) from error


def _loads(root: Path) -> bool:
    """Whether mlx-lm itself takes the checkpoint, by its headers: what mlx_lm.convert begins with."""
    from mlx_lm import utils

    try:
        utils.load_model(root, lazy=True)
    except Exception:  # whatever a model file of mlx-lm makes of tensors that it does not know
        return False
    return True


class ArraySources(Sources):
    """Bytes of lazy arrays by name, one array alive at a time; real files are read as ever.

    Args:
        fs: File operations.
        names: Names of the tensors.
        load: Returns all tensors, lazy; called again for a tensor that was dropped, as for the final comparison.
    """

    def __init__(self, fs: Fs, names: frozenset[str], load: Callable[[], dict[str, Any]]) -> None:
        super().__init__(fs)
        self._names = names
        self._load = load
        self._lazy: dict[str, Any] = {}
        self._held: tuple[str, memoryview] | None = None
        self.peak = 0

    def read(self, path: Path, buffer: memoryview, offset: int) -> None:
        """Fills a buffer from a tensor, or from a file if `path` is none of the tensors."""
        if str(path) in self._names:
            buffer[:] = self.tensor(str(path))[offset : offset + buffer.nbytes]
        else:
            super().read(path, buffer, offset)

    def tensor(self, name: str) -> memoryview:
        """Evaluates a tensor and returns its bytes, valid until the next call."""
        import mlx.core as mx

        if self._held is not None and self._held[0] == name:
            return self._held[1]
        self._held = None
        mx.clear_cache()
        if name not in self._lazy:
            self._lazy = self._load()
        array = self._lazy.pop(name)
        try:
            flat = mx.contiguous(array).reshape(-1).view(mx.uint8)
            mx.eval(flat)
        except Exception as error:  # a lazy array that failed to load must never be evaluated again: it yields zeros
            self._lazy = {}
            raise ConvertError(
                f"tensor {name!r} cannot be read from the checkpoint: {error}. Fetch it again."
            ) from error
        self.peak = max(self.peak, mx.get_peak_memory())
        self._held = (name, memoryview(cast(Any, flat)))
        return self._held[1]

    def close(self) -> None:
        """Drops every array and closes every descriptor."""
        self._held, self._lazy = None, {}
        super().close()
