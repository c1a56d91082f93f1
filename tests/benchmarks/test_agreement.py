"""Two learners that differ are never compared by time."""

import pytest
import torch

from benchmarks.learner_work import Workload
from benchmarks.peers.agreement import (
    Agreement,
    DisagreementError,
    check_hearing,
    largest_difference,
    update_difference,
)

EQUAL = (0.0, 0.0, 0.0, 0.0, 0.0)


def test_equal_learners_agree():
    Agreement(*EQUAL).check()


@pytest.mark.parametrize("place", range(5))
@pytest.mark.parametrize("difference", [0.01, float("nan")])
def test_any_difference_counts(place, difference):
    differences = [*EQUAL]
    differences[place] = difference
    with pytest.raises(DisagreementError, match="difference is"):
        Agreement(*differences).check()


def test_differences():
    assert largest_difference([(1.0, 2.0), (3.0, 4.0)], [[1.0, 2.5], [3.0, 3.0]]) == 1.0
    before, ours = {"a": torch.zeros(4), "b": torch.ones(2)}, {"a": torch.full((4,), 2.0), "b": torch.ones(2)}
    assert update_difference(before, ours, ours) == 0
    assert update_difference(before, ours, before) == 1
    with pytest.raises(DisagreementError, match="lacks 1 parameters, b"):
        update_difference(before, ours, {"a": torch.zeros(4)})


def test_a_reference_that_hears_nothing_is_found():
    workload = Workload(questions=1, group_size=2, clip_seconds=2.0)
    whole = {"policy": 100, "reference": 100}
    check_hearing({"clips_encoded": {"policy": 2, "reference": 2}, "audio_embeddings": whole}, workload)
    with pytest.raises(DisagreementError, match="heard"):
        check_hearing({"clips_encoded": {"policy": 2, "reference": 0}, "audio_embeddings": whole}, workload)
    with pytest.raises(DisagreementError, match="heard"):
        check_hearing(
            {"clips_encoded": {"policy": 2, "reference": 2}, "audio_embeddings": {**whole, "policy": 50}}, workload
        )
