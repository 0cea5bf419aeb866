"""From a conversation with pictures to a prompt: the model's own processor, by mlx-vlm's functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx import nn

from moe_mlx.errors import MoeMlxError, StoreCorruptError, UnsupportedModelError, UsageError
from moe_mlx.vlm.installed import require
from moe_mlx.vlm.pictures import PICTURE, Picture, check_count

Message = Mapping[str, Any]
#: What processors say of each token of a prompt, `[1, L]`, and what they say of one of text.
_OF_TOKENS = {"attention_mask": 1, "token_type_ids": 0, "mm_token_type_ids": 0, "images_seq_mask": 0}


class PicturePrompt(list[int]):
    """A prompt's tokens, with what its pictures are to the model.

    Attributes:
        pictures: The pictures' digests, in order: tokens alone do not tell them apart.
        inputs: What the processor made of prompt and pictures, by mlx-vlm's names.
    """

    def __init__(self, tokens: list[int], pictures: tuple[str, ...], inputs: dict[str, Any]) -> None:
        super().__init__(tokens)
        self.pictures, self.inputs = pictures, inputs

    def then(self, tokens: list[int]) -> PicturePrompt:
        """Returns the prompt with tokens of its answer after it: text, in everything that is said of each token."""
        if not tokens:
            return self
        inputs = dict(self.inputs)
        for name, text in _OF_TOKENS.items():
            if (told := inputs.get(name)) is not None:
                told = mx.array(told)
                inputs[name] = mx.concatenate([told, mx.full((1, len(tokens)), text, told.dtype)], axis=1)
        return PicturePrompt([*self, *tokens], self.pictures, inputs)


def pictures_of(messages: Sequence[Message]) -> list[Picture]:
    """Returns the pictures of a conversation, in order."""
    parts = [part for message in messages for part in _parts(message)]
    return [part[PICTURE] for part in parts if part.get("type") == PICTURE]


def _parts(message: Message) -> list[Mapping[str, Any]]:
    content = message.get("content")
    return [part for part in content if isinstance(part, Mapping)] if isinstance(content, list) else []


class PictureReader:
    """A model's processor, loaded when the first picture comes. Used by the thread that owns MLX.

    Args:
        model: Built by mlx-vlm.
        folder: Of the model, its processor's files in it.
        config: The model's.
        trust_remote_code: Whether the processor may bring code of its own.
    """

    def __init__(
        self, model: nn.Module, folder: Path, config: Mapping[str, Any], *, trust_remote_code: bool = False
    ) -> None:
        self._model, self._folder, self._config = model, folder, dict(config)
        self._trusted = trust_remote_code
        self._processor: Any = None

    def prompt(self, messages: Sequence[Message], **template: Any) -> PicturePrompt:
        """Writes a conversation as the model's template has it, and processes its pictures.

        Args:
            messages: With content parts of type "text" and `PICTURE`.
            template: Further arguments of the chat template.

        Raises:
            UsageError: too many pictures, or the template or the processor does not take them.
            StoreCorruptError: there is no processor in the model's folder.
        """
        pictures = pictures_of(messages)
        check_count(len(pictures))
        processor = self._loaded()
        from mlx_vlm.prompt_utils import apply_chat_template
        from mlx_vlm.utils import prepare_inputs

        shown = [_with_markers(message) for message in messages]
        try:
            text = apply_chat_template(processor, self._config, shown, num_images=len(pictures), **template)
            inputs = prepare_inputs(
                processor,
                images=[picture.image for picture in pictures],
                prompts=text,
                image_token_index=getattr(self._model.config, "image_token_index", None),
                add_special_tokens=False,
            )
        except Exception as error:  # whatever a processor makes of pictures that it was not made for
            said = " ".join(str(error).split())[:200] or type(error).__name__
            raise UsageError(f"the model's processor does not take this conversation: {said}") from error
        ids = mx.array(inputs["input_ids"]).reshape(1, -1)
        mx.eval(
            ids, [value for value in inputs.values() if isinstance(value, mx.array)]
        )  # on the thread that made them
        made = {name: value for name, value in inputs.items() if name != "input_ids" and value is not None}
        return PicturePrompt(ids[0].tolist(), tuple(picture.digest for picture in pictures), made)

    def _loaded(self) -> Any:
        if self._processor is None:
            require(f"{self._folder}: pictures")
            from mlx_vlm.utils import load_image_processor, load_processor

            try:
                self._processor = load_processor(self._folder, add_detokenizer=False, trust_remote_code=self._trusted)
                own = load_image_processor(self._folder)
            except MoeMlxError:
                raise
            except Exception as error:
                said = " ".join(str(error).split())[:200] or type(error).__name__
                if "trust_remote_code" in said:
                    raise UnsupportedModelError(
                        f"{self._folder}: the processor wants code of its own to run. If you trust it, pass "
                        "--trust-remote-code."
                    ) from error
                raise StoreCorruptError(
                    f"{self._folder}: the processor of its pictures cannot be loaded: {said}. Fetch the model again "
                    "(preprocessor_config.json and the like)."
                ) from error
            if own is not None:
                self._processor.image_processor = own
        return self._processor


def _with_markers(message: Message) -> dict[str, Any]:
    """Returns a message whose pictures are the markers that mlx-vlm counts."""
    content = message.get("content")
    if not isinstance(content, list):
        return dict(message)
    parts = [{"type": "image"} if part.get("type") == PICTURE else dict(part) for part in content]
    return {**message, "content": parts}
