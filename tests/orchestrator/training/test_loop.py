"""A loop stops after so many updates that were not finite, and only in a row."""

import pytest

from orchestrator.display.progress import make_progress
from orchestrator.job.spec import JobSpec
from orchestrator.run.directory import RunDirectory
from orchestrator.training.control import Control
from orchestrator.training.loop import NonFiniteError
from orchestrator.training.state import RunState
from orchestrator.training.supervised import SupervisedLoop
from protocol.training import Learned

SPEC = JobSpec.model_validate(
    {
        "model": {"path": "m"},
        "data": {"train": "t"},
        "learner": {"max_nonfinite_steps": 3, "loss": {"updates_per_batch": 1}},
    }
)
FINE, STOPPED = Learned(1, {"learner/nonfinite": 0.0}), Learned(1, {"learner/nonfinite": 1.0})


@pytest.fixture
def loop(tmp_path):
    """A loop whose parts that this does not touch are missing."""
    run = RunDirectory.create(tmp_path / "run", "name: test\n")
    return SupervisedLoop(SPEC, [], [], None, None, run, None, make_progress("quiet"), RunState(), Control(run))


def test_three_in_a_row_end_the_job_with_a_clear_error(loop):
    loop.watch_finite(1, STOPPED)
    loop.watch_finite(2, STOPPED)
    with pytest.raises(NonFiniteError, match="3 updates in a row, up to step 3"):
        loop.watch_finite(3, STOPPED)
    events = loop.run.events()
    assert [(e["kind"], e["step"], e["in_row"]) for e in events] == [("nonfinite_update", i, i) for i in (1, 2, 3)]


def test_one_that_is_finite_between_them_forgives(loop):
    for step, learned in enumerate((STOPPED, STOPPED, FINE, STOPPED, STOPPED), start=1):
        loop.watch_finite(step, learned)
    assert loop.state.nonfinite_in_row == 2


def test_a_batch_that_was_cut_smaller_is_shown(loop):
    loop.watch_finite(4, Learned(1, {"learner/cut_smaller": 1.0, "learner/micro_batches": 6.0}))
    (event,) = loop.run.events()
    assert (event["kind"], event["step"], event["micro_batches"]) == ("batch_cut_smaller", 4, 6.0)
