"""Penalty for completions near the maximum length: Yu et al., 2025, "DAPO", eq. 13 (soft overlong punishment)."""

OVERLONG = "overlong"
"""Name of the penalty among the rewards of a completion."""


def overlong_penalty(length: int, max_tokens: int, buffer: int) -> float:
    """Return 0 up to `max_tokens - buffer` tokens, then decreasing linearly to -1 at `max_tokens`.

    Args:
        length: tokens of the completion.
        buffer: number of tokens over which the penalty grows; at least 1.
    """
    return -min(1.0, max(0.0, (length - (max_tokens - buffer)) / buffer))
