"""Decides whether a file may be read, before it is opened."""

from collections.abc import Callable

Guard = Callable[[str], object]
"""Takes a path or URL, and raises an InputError if nothing may be opened or fetched there. Its result is not used."""
