"""The table of losses has every algorithm with the choices of its preset."""

import re
from pathlib import Path

from docs.pages import ROOT

from learner.losses.settings import Algorithm, LossSettings

PAGE = ROOT / "docs" / "use" / "losses-memory-and-scale.md"


def rows(page: Path) -> list[list[str]]:
    """Return the cells of the rows of the first table, without its head."""
    table = re.search(r"(?:^\|.*\n)+", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert table
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in table[0].splitlines()[2:]]


def test_every_algorithm_has_a_row_with_its_choices():
    shown = {cells[0].strip("`"): cells for cells in rows(PAGE)}
    assert shown.keys() == {algorithm.value for algorithm in Algorithm}
    for algorithm in Algorithm:
        choices = LossSettings(algorithm=algorithm).choices
        _, advantage, mean, bounds, source = shown[algorithm.value]
        assert advantage.startswith(f"`{choices.advantage.value}`"), algorithm
        assert mean == f"`{choices.aggregate.value}`", algorithm
        low, high = re.findall(r"\d+(?:\.\d+)?", bounds)[:2]
        assert (float(low), float(high)) == (round(1 - choices.clip_low, 4), round(1 + choices.clip_high, 4)), algorithm
        assert "arXiv:" in source, algorithm
