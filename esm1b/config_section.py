"""What every section of the configuration has in common."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

# A name becomes a folder under results/, so it must be one.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]


class Section(BaseModel):
    """Keys with their defaults; an unknown one is refused."""

    # Not strict: `snakemake --config pretraining='{updates: 700}'` passes the number as text.
    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @model_validator(mode="before")
    @classmethod
    def _no_truth_value_for_a_number(cls, values: Any) -> Any:
        for name, field in cls.model_fields.items():
            value = values.get(name) if isinstance(values, Mapping) else None
            if isinstance(value, bool) and field.annotation is not bool:
                raise ValueError(f"{name}: {str(value).lower()}: input should not be a truth value")
        return values
