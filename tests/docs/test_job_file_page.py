"""docs/reference/job-file.md is what docs/generate_job_file.py writes from the models."""

import runpy
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_is_up_to_date():
    page = runpy.run_path(str(DOCS / "generate_job_file.py"))["page"]()
    written = (DOCS / "reference" / "job-file.md").read_text(encoding="utf-8")
    assert written == page, "out of date: run `.venv/bin/python docs/generate_job_file.py`"
