"""Values in the cells of tables: lists and whole numbers that are written as text."""

import ast
import io
import json
import tokenize


def listed(value: object) -> object:
    """Return the list that a text holds, as JSON or as Python writes it; any other value as it is.

    Raises ValueError, with the reason, for a text that begins as a list and is none. One is the way numpy writes
    texts, `['a' 'b']`: Python would read them as the one text `ab`.
    """
    if not isinstance(value, str) or not value.lstrip().startswith("["):
        return value
    try:
        return json.loads(value)
    except RecursionError as error:
        raise ValueError("is nested too deeply") from error
    except ValueError as error:
        reason = f"is not a JSON list ({error})"
    try:
        found = ast.literal_eval(value.strip())
        tokens = list(tokenize.generate_tokens(io.StringIO(value.strip()).readline))
    except (ValueError, SyntaxError, MemoryError, RecursionError, tokenize.TokenError):
        raise ValueError(reason) from None
    texts = sum(token.type == tokenize.STRING for token in tokens)
    if not isinstance(found, list) or texts != sum(isinstance(element, str) for element in found):
        raise ValueError("lacks a comma between two of its texts")
    return found


def whole_number(value: object) -> int | None:
    """Return a whole number that is written as 2, 2.0, "2" or "2.0"; None for anything else, truth values included."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    text = value.strip() if isinstance(value, str) else ""
    digits = text.removesuffix(".0").removeprefix("-")
    # Python converts at most 4,300 digits.
    return int(text.removesuffix(".0")) if digits.isdecimal() and len(digits) < 20 else None
