"""A reward for not being cut off: Yu et al., 2025, "DAPO", eq. 13 (soft overlong punishment)."""

OVERLONG = "overlong"
"""Its name among the rewards of a completion."""


def overlong_penalty(length: int, max_tokens: int, buffer: int) -> float:
    """0 up to `max_tokens - buffer` tokens, then falling in a line to -1 at `max_tokens`.

    Args:
        length: tokens of the completion.
        buffer: over how many tokens the penalty grows; at least 1.
    """
    return -min(1.0, max(0.0, (length - (max_tokens - buffer)) / buffer))
