"""docs/reference/commands.md is what docs/generate_commands.py writes from the command line."""

import runpy
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_is_up_to_date():
    page = runpy.run_path(str(DOCS / "generate_commands.py"))["page"]()
    written = (DOCS / "reference" / "commands.md").read_text(encoding="utf-8")
    assert written == page, "out of date: run `.venv/bin/python docs/generate_commands.py`"
