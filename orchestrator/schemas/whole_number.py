"""Whole numbers in paths and queries, where pydantic would read "1_0" as 10, and "+5", " 5" and "5.0" as 5."""

from typing import Annotated, Any

from pydantic import BeforeValidator

from orchestrator.schemas.digits import DIGITS


def check_digits(value: Any) -> Any:
    """Return the value of a parameter. Raises ValueError for text that is not a number in decimal digits."""
    if isinstance(value, str) and not DIGITS.fullmatch(value):
        raise ValueError("write a whole number in decimal digits, at most 18 of them, such as 50")
    return value


WholeNumber = Annotated[int, BeforeValidator(check_digits)]
"""A whole number of a query; `Annotated[WholeNumber, Query(ge=1)]` adds its bounds."""
