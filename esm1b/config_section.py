"""Base class and common types of the sections of the configuration."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(gt=0, lt=1)]

# A name becomes a folder under results/.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]


class Section(BaseModel):
    """A section: keys with defaults; unknown keys are refused."""

    # Not strict: `snakemake --config pretraining='{updates: 700}'` passes the number as text.
    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @model_validator(mode="before")
    @classmethod
    def _refuse_booleans_as_numbers(cls, values: Any) -> Any:
        for name, field in cls.model_fields.items():
            value = values.get(name) if isinstance(values, Mapping) else None
            if isinstance(value, bool) and field.annotation is not bool:
                raise ValueError(f"{name}: {str(value).lower()}: input should not be a boolean")
        return values
