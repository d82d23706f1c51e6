"""What a setting may be, in plain words in place of the validator's."""

from collections.abc import Callable, Mapping
from typing import Any

from pipeline.core.quoting import printable

_EXPECTED: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "float_parsing": lambda _: "a number",
    "finite_number": lambda _: "a finite number",
    "int_parsing": lambda _: "a whole number",
    "int_from_float": lambda _: "a whole number",
    "bool_parsing": lambda _: "true or false",
    "greater_than_equal": lambda limits: f"a number of at least {limits['ge']:g}",
    "greater_than": lambda limits: f"a number above {limits['gt']:g}",
    "less_than_equal": lambda limits: f"a number of at most {limits['le']:g}",
    "less_than": lambda limits: f"a number below {limits['lt']:g}",
    "literal_error": lambda limits: str(limits["expected"]).replace("'", ""),
    "string_type": lambda _: "a text",
    "string_too_short": lambda limits: f"a text of at least {limits['min_length']} characters",
    "missing": lambda _: "a complete value",
}
"""What is expected, by the validator's type of error."""


def expected(name: str, error: Mapping[str, Any]) -> str:
    """What is wrong with a setting, and how to write it.

    Args:
        name: that of the setting.
        error: one of pydantic's errors, with the input.
    """
    wanted = _EXPECTED.get(error["type"])
    if wanted is None:
        return str(error["msg"]).removeprefix("Value error, ")
    given = printable(str(error["input"]))
    shown = f", not {name}={given}" if isinstance(error["input"], str | int | float) else ""
    return f"write {wanted(error.get('ctx', {}))}{shown}"
