"""Validation of storage URLs. Nothing is opened: jobs are also checked on machines without access to the storage."""

import re

from audio_qa.errors import shown

EXAMPLES = "s3://BUCKET/FOLDER, gs://BUCKET/FOLDER or file:///FOLDER"
_READ_ONLY = frozenset({"http", "https", "data", "git", "github"})


def check_url(url: str) -> None:
    """Raise ValueError, with one line without secrets, unless runs can be stored at `url`."""
    scheme, separator, rest = url.partition("://")
    if not separator or not re.fullmatch(r"[a-z][a-z0-9+.-]*", scheme) or "://" in rest or "::" in rest:
        raise ValueError(f"storage: name a URL such as {EXAMPLES}")
    if re.match(r"[^@]*:[^@]*@", rest):
        raise ValueError(
            f"storage: the {scheme}:// URL contains a user name and password: leave them out; credentials come from "
            "the environment of the job (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, GOOGLE_APPLICATION_CREDENTIALS)"
        )
    if "?" in rest or "#" in rest:
        raise ValueError(f"storage: the {scheme}:// URL has a query or a fragment: leave it out")
    if scheme in _READ_ONLY:
        raise ValueError(f"storage: nothing can be written to {scheme}:// URLs: name one such as {EXAMPLES}")
    if scheme in ("file", "local") and not rest.startswith("/"):
        raise ValueError(f"storage: {shown(url)} is relative: write the absolute path, as in file:///FOLDER")
    if not rest.strip("/"):
        raise ValueError(f"storage: {shown(url)} has no bucket or folder: add one, as in {EXAMPLES}")


def split_run(url: str) -> tuple[str, str]:
    """Split the URL of a run into the URL of its storage and the run's name. Raises ValueError."""
    check_url(url)
    storage, _, name = url.rstrip("/").rpartition("/")
    try:
        check_url(storage)
    except ValueError:
        example = shown(url.rstrip("/") + "/RUN")
        raise ValueError(f"storage: {shown(url)} has no name of a run: append it, as in {example}") from None
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ValueError(f"storage: {shown(name)} is not a name for a run: use letters, digits, dot, dash, underscore")
    return storage, name
