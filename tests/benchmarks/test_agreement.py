"""Times of two learners are compared only if both do the same work."""

import pytest
import torch

from benchmarks.peers.agreement import (
    Agreement,
    DisagreementError,
    check_audio_used,
    largest_difference,
    update_difference,
)
from benchmarks.support.learner_workload import Workload

EQUAL = (0.0, 0.0, 0.0, 0.0, 0.0)


def test_equal_learners_agree():
    Agreement(*EQUAL).check()


@pytest.mark.parametrize("index", range(5))
@pytest.mark.parametrize("difference", [0.01, float("nan")])
def test_any_difference_counts(index, difference):
    differences = [*EQUAL]
    differences[index] = difference
    with pytest.raises(DisagreementError, match="difference is"):
        Agreement(*differences).check()


def test_differences():
    assert largest_difference([(1.0, 2.0), (3.0, 4.0)], [[1.0, 2.5], [3.0, 3.0]]) == 1.0
    before, ours = {"a": torch.zeros(4), "b": torch.ones(2)}, {"a": torch.full((4,), 2.0), "b": torch.ones(2)}
    assert update_difference(before, ours, ours) == 0
    assert update_difference(before, ours, before) == 1
    with pytest.raises(DisagreementError, match="lacks 1 parameters, for example b"):
        update_difference(before, ours, {"a": torch.zeros(4)})


def test_a_reference_without_audio_is_detected():
    workload = Workload(questions=1, group_size=2, clip_seconds=2.0)
    whole = {"policy": 100, "reference": 100}
    check_audio_used({"clips_encoded": {"policy": 2, "reference": 2}, "audio_embeddings": whole}, workload)
    with pytest.raises(DisagreementError, match="the peer used"):
        check_audio_used({"clips_encoded": {"policy": 2, "reference": 0}, "audio_embeddings": whole}, workload)
    with pytest.raises(DisagreementError, match="the peer used"):
        check_audio_used(
            {"clips_encoded": {"policy": 2, "reference": 2}, "audio_embeddings": {**whole, "policy": 50}}, workload
        )
