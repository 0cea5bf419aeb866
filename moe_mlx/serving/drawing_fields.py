"""The fields that say how tokens are drawn: one schema for all of OpenAI's endpoints, checked before MLX is asked."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

#: Texts that end an answer: how many, and how long one may be.
MAX_STOPS, MAX_STOP_LENGTH = 16, 1000
#: Answers to one request.
MAX_CHOICES = 8
MAX_BIASED = 1024
#: Below it mlx-lm's sampler would divide by next to nothing.
COLDEST = 1e-3

Share = Annotated[float, Field(ge=0, le=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Context = Annotated[int, Field(ge=0, le=1_000_000)]
Count = Annotated[int, Field(ge=1, le=10**15)]
Stop = Annotated[str, Field(min_length=1, max_length=MAX_STOP_LENGTH)]

_ELSEWHERE = "only whoever starts the server chooses it"
#: Fields that would change the answer and are not done here: refused, not left out. Value: why.
REFUSED: dict[str, str] = {
    "adapters": _ELSEWHERE,
    "draft_model": _ELSEWHERE,
    "role_mapping": _ELSEWHERE,
    "chat_template": _ELSEWHERE,
    "functions": "use tools",
    "function_call": "use tool_choice",
    "audio": "this server makes text",
    "prediction": "predicted outputs are not done here",
    "web_search_options": "nothing is fetched for a client",
    "best_of": "use n",
    "suffix": "insertion is not done here",
    "grammar": "use response_format",
    "guided_json": "use response_format",
    "guided_regex": "use response_format",
}
#: Values of those that mean what happens anyway.
_HARMLESS: dict[str, tuple[Any, ...]] = {"draft_model": ("default_model",), "best_of": (1,), "suffix": ("",)}


class Fields(BaseModel):
    """A strict schema: no text taken for a number, no NaN, no infinity. Fields nobody knows are left alone."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, extra="ignore", hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _refused(cls, body: Any) -> Any:
        if isinstance(body, dict):
            for name, why in REFUSED.items():
                if body.get(name) is not None and body[name] not in _HARMLESS.get(name, ()):
                    raise ValueError(f"{name} is not taken: {why}")
        return body


class StreamOptions(Fields):
    """OpenAI's `stream_options`."""

    include_usage: bool = False


class DrawingFields(Fields):
    """How many tokens, how they are drawn, when they end. None leaves what the server was started with."""

    model: str | None = Field(None, max_length=512)
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: Count | None = None
    n: int = Field(1, ge=1, le=MAX_CHOICES)
    temperature: float | None = Field(None, ge=0, le=10)
    top_p: Share | None = None
    top_k: int | None = Field(None, ge=-1, lt=1 << 31)
    min_p: Share | None = None
    xtc_probability: Share = 0.0
    xtc_threshold: float = Field(0.1, ge=0, le=0.5)
    repetition_penalty: float | None = Field(None, ge=0, le=10)
    repetition_context_size: Context = 20
    presence_penalty: Penalty | None = None
    presence_context_size: Context = 20
    frequency_penalty: Penalty | None = None
    frequency_context_size: Context = 20
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    seed: int | None = Field(None, ge=0, lt=1 << 64)
    stop: Stop | Annotated[list[Stop], Field(max_length=MAX_STOPS)] | None = None
    num_draft_tokens: int | None = Field(None, ge=0, le=16)

    @field_validator("temperature")
    @classmethod
    def _warm_enough(cls, value: float | None) -> float | None:
        if value is not None and 0 < value < COLDEST:
            raise ValueError(f"give 0 (greedy), or {COLDEST:g} or more")
        return value

    @field_validator("logit_bias")
    @classmethod
    def _ids(cls, value: dict[str, float] | None) -> dict[str, float] | None:
        if value is not None:
            if len(value) > MAX_BIASED:
                raise ValueError(f"at most {MAX_BIASED} tokens")
            if any(not (key.isascii() and key.isdigit() and len(key) < 10) for key in value):
                raise ValueError("its keys are token ids, as texts of digits")
        return value

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts that end an answer."""
        return () if self.stop is None else (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)


class JsonSchema(Fields):
    """OpenAI's `json_schema` of a `response_format`."""

    name: str | None = Field(None, max_length=200)
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


class ResponseFormat(Fields):
    """OpenAI's `response_format`."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    def schema_wanted(self) -> dict[str, Any] | None:
        """Returns the JSON schema that the answer has to keep to; None for free text."""
        if self.type == "text":
            return None
        if self.type == "json_object" or self.json_schema is None:
            return {"type": "object"}
        return self.json_schema.schema_ or {"type": "object"}
