"""What the URL of a storage may be. Nothing is opened here: a job is checked on machines that never see its storage."""

import re

EXAMPLES = "s3://BUCKET/FOLDER, gs://BUCKET/FOLDER or file:///FOLDER"
_READ_ONLY = frozenset({"http", "https", "data", "git", "github"})


def check_url(url: str) -> None:
    """Raise ValueError, with one line that holds no secret, unless runs could be stored at `url`."""
    scheme, separator, rest = url.partition("://")
    if not separator or not re.fullmatch(r"[a-z][a-z0-9+.-]*", scheme) or "://" in rest or "::" in rest:
        raise ValueError(f"storage: a URL such as {EXAMPLES} is wanted")
    if re.match(r"[^@]*:[^@]*@", rest):
        raise ValueError(
            f"storage: the {scheme}:// URL holds a user's name and password: leave them out; credentials come from the "
            "environment of the job (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, GOOGLE_APPLICATION_CREDENTIALS)"
        )
    if "?" in rest or "#" in rest:
        raise ValueError(f"storage: the {scheme}:// URL has a query or a fragment: leave it out")
    if scheme in _READ_ONLY:
        raise ValueError(f"storage: nothing can be written to {scheme}:// URLs: name one such as {EXAMPLES}")
    if scheme in ("file", "local") and not rest.startswith("/"):
        raise ValueError(f"storage: {url!r} is relative: write the whole path, as in file:///FOLDER")
    if not rest.strip("/"):
        raise ValueError(f"storage: {url!r} names no place: write more of it, as in {EXAMPLES}")


def split_run(url: str) -> tuple[str, str]:
    """The storage of a run's URL, and the run's name in it. Raises ValueError."""
    check_url(url)
    storage, _, name = url.rstrip("/").rpartition("/")
    try:
        check_url(storage)
    except ValueError:
        raise ValueError(
            f"storage: {url!r} has no name of a run: write it behind, as in {url.rstrip('/')}/RUN"
        ) from None
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ValueError(f"storage: {name!r} is no name for a run: take letters, digits, dot, dash, underscore")
    return storage, name
