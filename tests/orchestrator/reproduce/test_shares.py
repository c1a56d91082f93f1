"""The table's figures, where questions could not be asked."""

from typing import Any

from orchestrator.reproduce.figures import TRAINED, UNSEEN, Share, shares


def part(accuracy: float | None, failed: int) -> dict[str, Any]:
    return {"accuracy": accuracy, "count": 10, "failed": failed}


def test_a_type_of_which_nothing_could_be_asked_counts_as_wrong_beside_the_others() -> None:
    categories = {"order": part(0.8, 0), "count": part(None, 10), "pitch": part(None, 10)}
    evaluation = {"by_task": {}, "by_category": categories, "count": 30, "failed": 20, "accuracy": 8 / 30}
    found = shares(evaluation | {"silence_accuracy": None, "chance_accuracy": 0.25}, ["order", "count"])
    assert found["all"] == Share(8, 30)
    assert found[TRAINED] == Share(8, 20)
    assert UNSEEN not in found
    assert "silence" not in found
