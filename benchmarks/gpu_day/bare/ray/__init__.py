"""A stand-in for Ray where it is not installed: what an engine and a learner rank import without a cluster."""

from ray import exceptions, util

STAND_IN = True

__all__ = ["exceptions", "is_initialized", "util"]


def is_initialized() -> bool:
    """Return False: there is no cluster."""
    return False
