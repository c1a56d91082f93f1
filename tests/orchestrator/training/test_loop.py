"""A loop stops after a number of non-finite updates, and only if they are consecutive."""

import pytest

from audio_qa.question import Question
from orchestrator.display.progress import make_progress
from orchestrator.job.spec import JobSpec
from orchestrator.run.directory import RunDirectory
from orchestrator.training.control import Control
from orchestrator.training.loop import NonFiniteError, Parts
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
FINITE, SKIPPED = Learned(1, {"learner/nonfinite": 0.0}), Learned(1, {"learner/nonfinite": 1.0})


@pytest.fixture
def loop(tmp_path):
    """A loop without the parts that these tests do not use."""
    run_dir = RunDirectory.create(tmp_path / "run", "name: test\n")
    parts = Parts(
        spec=SPEC,
        train=[Question("d", 0, "0", "0.wav", "?", ("a", "b"), "a")],
        held_out=[],
        pool=None,
        learner=None,
        run_dir=run_dir,
        checkpoints=None,
        progress=make_progress("quiet"),
        state=RunState(),
        control=Control(run_dir),
    )
    return SupervisedLoop(parts)


def test_three_in_a_row_end_the_job_with_a_clear_error(loop):
    loop.check_finite(1, SKIPPED)
    loop.check_finite(2, SKIPPED)
    with pytest.raises(NonFiniteError, match="3 updates in a row, up to step 3"):
        loop.check_finite(3, SKIPPED)
    events = loop.run_dir.events()
    assert [(e["kind"], e["step"], e["in_row"]) for e in events] == [("nonfinite_update", i, i) for i in (1, 2, 3)]


def test_a_finite_update_resets_the_count(loop):
    for step, learned in enumerate((SKIPPED, SKIPPED, FINITE, SKIPPED, SKIPPED), start=1):
        loop.check_finite(step, learned)
    assert loop.state.nonfinite_in_row == 2


def test_smaller_micro_batches_are_reported(loop):
    loop.check_finite(4, Learned(1, {"learner/cut_smaller": 1.0, "learner/micro_batches": 6.0}))
    (event,) = loop.run_dir.events()
    assert (event["kind"], event["step"], event["micro_batches"]) == ("batch_cut_smaller", 4, 6.0)
