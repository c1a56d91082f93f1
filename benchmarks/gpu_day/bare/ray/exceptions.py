"""Ray's errors, which nothing raises here."""


class RayError(Exception):
    """Base of Ray's errors."""


class RayTaskError(RayError):
    """An error of a remote call."""


class RayActorError(RayError):
    """A dead actor."""
