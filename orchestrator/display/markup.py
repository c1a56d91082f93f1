"""HTML from Jinja2 templates.

Invariant: whatever a model or a dataset wrote is escaped. Only `Markup` reaches a page as it is, and only plots and
templates make it.
"""

import re
from functools import cache

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

_UNSHOWABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def html_text(value: object) -> Markup:
    """Return a value escaped for HTML; None is empty.

    Characters that HTML forbids, or that reverse the direction of text, are shown by their code points.
    """
    return escape(_visible(value))


def render_template(name: str, /, *packages: str, **values: object) -> str:
    """Render a template.

    Args:
        name: a file in `templates/` of one of the packages.
        packages: those besides `orchestrator.display`, which has the frame of every page.
    """
    return _environment(packages).get_template(name).render(values)


@cache
def _environment(packages: tuple[str, ...]) -> Environment:
    loaders = [PackageLoader(package) for package in (*packages, "orchestrator.display")]
    return Environment(
        loader=ChoiceLoader(loaders),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _visible(value: object) -> str:
    """Return a value as text without characters that must not be in a page; `Markup` is returned as it is."""
    if isinstance(value, Markup):
        return value
    text = "" if value is None else str(value)
    return _UNSHOWABLE.sub(lambda match: f"⟨U+{ord(match[0]):04X}⟩", text)
