"""The body of a request for samples, in genkit's own words. Knows neither models nor the web.

Strict: a value of another type, an unknown key and a number that is not finite are errors.
"""

from __future__ import annotations

import base64
import binascii
import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from genkit.errors import ConfigError

LONGEST_TEXT = 10_000
"""Characters of a label or of a control."""

Number = Annotated[int, Field(ge=0, lt=2**63)]
FileFormat = Annotated[str, Field(pattern="^[a-z0-9]{1,8}$")]
"""The ending of a file."""

LatentPlace = tuple[Number, Number, Annotated[float, Field(ge=0, le=1)]]
Answer = Literal["file", "zip", "json", "tensors", "events", "stream"]

EXAMPLES: dict[str, dict[str, Any]] = {
    "one sample": {"n": 1, "seed": 7},
    "sixteen, in a zip file": {"n": 16, "seed": 7, "answer": "zip"},
    "one by one, as server-sent events": {"n": 4, "seed": 7, "answer": "events"},
    "from one sample to another": {"seed": 7, "interpolate": [0, 1], "steps": 8, "answer": "json"},
}


class UploadedCondition(BaseModel):
    """The content of a file that conditions the samples."""

    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)

    format: FileFormat
    """The ending of such a file: one of the model's `condition_formats`."""
    data: str
    """The content, in base64."""

    def content(self) -> bytes:
        """The content.

        Raises:
            ConfigError: if it is not in base64.
        """
        try:
            return base64.b64decode(self.data, validate=True)
        except (binascii.Error, ValueError) as error:
            raise ConfigError(f"condition.data is not in base64 ({error})") from error


class GenerateRequest(BaseModel):
    """Samples, and how they shall be answered."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        use_attribute_docstrings=True,
        json_schema_extra={"examples": list(EXAMPLES.values())},
    )

    model: str | None = None
    """The name of a model, see `/v1/models`; null: the first."""
    n: Annotated[int, Field(ge=1)] = 1
    """Number of samples."""
    seed: Number = 0
    """Seed of the noise; seed and index identify a sample."""
    start: Number = 0
    """Index of the first sample."""
    label: Annotated[str, Field(max_length=LONGEST_TEXT)] | None = None
    """The condition of a conditional model: a label or a text; null: its default."""
    condition: UploadedCondition | None = None
    """The condition of a model that is conditioned on files."""
    controls: dict[str, Any] = {}
    """Values of the model's controls; its schema is at `/v1/models/{id}`."""
    best_of: Annotated[int, Field(ge=1)] = 1
    """Draw so many candidates for each sample, and keep one of them."""
    choose: Annotated[str, Field(max_length=40)] = "best"
    """best: the candidate that the critics score highest; sample: one that is drawn with the softmax of the scores as
    probabilities, calibrated if the critics were; sample:SCALE: of the scores times this."""
    points: Annotated[list[Number | LatentPlace], Field(min_length=1)] | None = None
    """Instead of n and start: an index for each sample, or [start, end, share], a latent point between two of them."""
    interpolate: Annotated[list[Number], Field(min_length=2, max_length=64)] | None = None
    """Instead of n and start: indices; a latent interpolation leads from each to the next."""
    steps: Annotated[int, Field(ge=1)] = 8
    """Steps of the interpolation from one index to the next."""
    format: FileFormat | None = None
    """File format: one of the model's formats, or of its preview formats for one file of many; null: the first."""
    answer: Answer | None = None
    """file: one file, of a sample or of all; zip: a file each, and samples.json; json: the same as JSON; tensors:
    a safetensors file; events: server-sent events, one by one; stream: one file, sent while it is made. null: file for
    one sample, else zip."""

    @field_validator("controls")
    @classmethod
    def _are_plain(cls, controls: dict[str, Any]) -> dict[str, Any]:
        for name, value in controls.items():
            if not _is_plain(value):
                raise ValueError(
                    f"{name[:80]}: must be a finite number, a text of at most {LONGEST_TEXT:,} characters, true, "
                    "false, null, or a short list of them"
                )
        return controls

    @model_validator(mode="after")
    def _is_of_one_kind(self) -> GenerateRequest:
        if self.interpolate is not None and {"n", "start", "best_of"} & self.model_fields_set:
            raise ValueError("interpolate excludes n, start and best_of")
        if self.points is not None and {"n", "start", "interpolate"} & self.model_fields_set:
            raise ValueError("points exclude n, start and interpolate")
        if self.points is not None and len({isinstance(point, int) for point in self.points}) > 1:
            raise ValueError("points are indices or latent points, not both")
        if self.best_of > 1 and self.points is not None and not isinstance(self.points[0], int):
            raise ValueError("best_of is for indices, not for latent points")
        if self.interpolate is None and "steps" in self.model_fields_set:
            raise ValueError("steps are those of an interpolation: give interpolate, too")
        if self.label is not None and self.condition is not None:
            raise ValueError("label and condition exclude each other")
        return self

    @property
    def count(self) -> int:
        """Number of samples."""
        if self.points is not None:
            return len(self.points)
        return self.n if self.interpolate is None else (len(self.interpolate) - 1) * self.steps + 1


def _is_plain(value: Any, depth: int = 1) -> bool:
    """Whether a value from JSON is small and harmless."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, list):
        return depth > 0 and len(value) <= 64 and all(_is_plain(part, depth - 1) for part in value)
    if isinstance(value, str):
        return len(value) <= LONGEST_TEXT
    return (
        value is None or isinstance(value, bool) or (isinstance(value, int) and abs(value) < 2**63)
    )
