"""Every fact in docs/develop/stack.md names the module that relies on it, and that exists."""

import re

import pytest
from docs.pages import ROOT

FACTS = re.split(r"\n(?=- |#)", (ROOT / "docs" / "develop" / "stack.md").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "fact", [fact for fact in FACTS if fact.startswith("- ")], ids=lambda fact: fact[2:40].strip("* ")
)
def test_a_fact_names_files_that_exist(fact: str):
    _, dash, named = " ".join(fact.split()).rpartition(" — ")
    assert dash, "the module that handles it is missing"
    files = re.findall(r"`([^`]+)`", named)
    assert files
    assert all((ROOT / file).exists() for file in files), files
