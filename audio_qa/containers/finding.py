"""The result of checking a container."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """A container that was checked without decoding it."""

    problem: str = ""
    """Damage that a decoder would not report, and how to correct it; empty if there is none."""
    verified: bool = True
    """True if the length that the decoder reads from the header is that of the sound."""
    corrected: bytes | None = None
    """The file with a header that is true, to be decoded in its place; None if its own is."""


SOUND = Finding()
"""A container whose header is true."""
UNVERIFIED = Finding(verified=False)
"""A container whose sound has to be decoded to know its length."""


def cut(expected: int, found: int) -> Finding:
    """Return the finding for a file that should hold `expected` bytes of sound."""
    return Finding(
        f"its header announces {expected:,} bytes of sound and {max(0, found):,} are there, so the end is missing; "
        "fetch or convert it again"
    )
