"""Base class and common types of the sections of the configuration."""

import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Annotated, Any, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)
from pydantic_core import PydanticCustomError

Share = Annotated[float, Field(gt=0, lt=1)]


def _power_of_ten(value: Any) -> Any:
    # Without a point before the exponent, YAML 1.1 reads 1e6 as text.
    with suppress(ValueError):
        return float(value) if isinstance(value, str) and "e" in value.lower() else value
    return value


Count = Annotated[int, Field(ge=1), BeforeValidator(_power_of_ten)]


def _checked_name(name: str) -> str:
    if not re.fullmatch("[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        expected = "expected letters, digits, '_', '.' and '-', first a letter or digit"
        raise PydanticCustomError("name", expected)
    return name


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


# A name becomes a folder under results/.
Name = Annotated[str, AfterValidator(_checked_name)]

# One text may stand for a list of one.
Texts = Annotated[tuple[str, ...], BeforeValidator(_listed)]


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
                problem = f"{name}: {str(value).lower()}: input should not be a boolean"
                if str in (field.annotation, *get_args(field.annotation)):
                    problem += ", as which YAML reads on, off, yes and no; expected text, in quotes"
                    problem += f' as in {name}: "on"'
                raise ValueError(problem)
        return values
