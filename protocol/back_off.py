"""Exponential back-off: what fails again and again is given more time between attempts."""


def back_off(failures: int, first: float = 1.0, longest: float = 60.0) -> float:
    """Return the seconds to wait after `failures` earlier failures: `first`, doubled for each, at most `longest`."""
    # Beyond 64 doublings every delay is the longest, and a float overflows eventually.
    return min(longest, first * 2.0 ** min(failures, 64))
