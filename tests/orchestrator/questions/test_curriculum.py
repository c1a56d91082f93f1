"""The curriculum: probabilities computed by hand, observed frequencies, and resuming from a checkpoint."""

import json
from collections import Counter

import pytest

from audio_qa.question import Question
from orchestrator.job.sections.data import CurriculumSection
from orchestrator.job.spec import JobSpec
from orchestrator.questions.curriculum import LearnableSource, easy_first, within
from orchestrator.questions.solve_rates import SolveRate
from orchestrator.questions.source import QuestionSource
from orchestrator.training.rollouts import source_of
from orchestrator.training.state import RunState

QUESTIONS = [Question("d", i, str(i), f"{i}.wav", "?", ("a", "b"), "a") for i in range(5)]
MEASURED = {"d:0": SolveRate(8, 8), "d:1": SolveRate(4, 8), "d:2": SolveRate(0, 8), "d:3": SolveRate(7, 8)}


def spec(**curriculum) -> JobSpec:
    return JobSpec.model_validate(
        {"model": {"path": "m"}, "data": {"train": "t", "curriculum": {"measured": "x", **curriculum}}, "seed": 3}
    )


def learnable(state: RunState, uniform: float = 0.1, measured=MEASURED) -> LearnableSource:
    source = source_of(spec(uniform=uniform), QUESTIONS, state, measured)
    assert isinstance(source, LearnableSource)
    return source


def one_by_one(source, count: int) -> list[int]:
    return [source.draw(1)[0].index for _ in range(count)]


def test_without_a_section_draws_are_uniform():
    job = JobSpec.model_validate({"model": {"path": "m"}, "data": {"train": "t"}})
    assert isinstance(source_of(job, QUESTIONS, RunState(), {}), QuestionSource)


def test_probabilities_are_proportional_to_p_times_one_minus_p():
    """p is 1, 1/2, 0, 7/8, and unknown: 1/2. p (1 - p) is 0, 16, 0, 7, 16 in 64ths; plus a uniform tenth."""
    expected = [0.02 + 0.9 * part / 39 for part in (0, 16, 0, 7, 16)]
    count = 6000
    drawn = Counter(one_by_one(learnable(RunState()), count))
    assert [drawn[i] / count for i in range(5)] == pytest.approx(expected, abs=0.025)


def test_one_call_does_not_repeat_questions_while_there_are_others():
    source = learnable(RunState())
    for _ in range(50):
        assert Counter(q.index for q in source.draw(5)) == Counter(range(5))
    assert Counter(q.index for q in source.draw(10)) == Counter(dict.fromkeys(range(5), 2))


def test_draws_are_uniform_where_nothing_can_be_learnt():
    source = learnable(RunState(), measured={q.key: SolveRate(8, 8) for q in QUESTIONS})
    drawn = Counter(one_by_one(source, 2000))
    assert min(drawn.values()) > 300


def test_solved_questions_are_drawn_less():
    state = RunState()
    source = learnable(state, measured={})
    for _ in range(6):
        source.observe("d:1", 8, 8)
    # 8 of 8 each time: the share is 1 at once. One failed group changes it by half of its weight.
    assert state.solve_rates["d:1"].share == 1
    assert 1 not in one_by_one(learnable(state, uniform=1e-9, measured={}), 300)
    source.observe("d:1", 0, 8)
    right, asked = state.solve_rates["d:1"]
    assert (right, asked) == (7.875, 15.875)


def test_a_new_group_halves_what_was_measured_before():
    state = RunState()
    learnable(state).observe("d:0", 2, 8)
    assert state.solve_rates["d:0"] == SolveRate(8 / 2 + 2, 8 / 2 + 8)


def test_the_seed_decides():
    first, again = (one_by_one(learnable(RunState()), 40) for _ in range(2))
    assert first == again
    other = source_of(spec().model_copy(update={"seed": 4}), QUESTIONS, RunState(), MEASURED)
    assert one_by_one(other, 40) != first


def test_a_resumed_job_makes_the_same_draws():
    state = RunState()
    source = learnable(state)

    def step(source) -> list[int]:
        drawn = source.draw(3)
        for question in drawn:
            source.observe(question.key, question.index * source.position % 9, 8)
        return [question.index for question in drawn]

    for _ in range(7):
        step(source)
    state.position = source.position
    saved = json.loads(json.dumps(state.to_dict()))
    left_alone = [step(source) for _ in range(9)]
    resumed = RunState()
    resumed.restore(saved)
    assert resumed.solve_rates != state.solve_rates, "what is saved does not change any more"
    later = learnable(resumed)
    assert [step(later) for _ in range(9)] == left_alone
    assert resumed.solve_rates == state.solve_rates


def test_a_checkpoint_without_solve_rates_is_read():
    saved = RunState(step=3).to_dict()
    del saved["solve_rates"]
    state = RunState()
    state.restore(saved)
    assert (state.step, state.solve_rates) == (3, {})


def test_easy_questions_first_once_per_epoch():
    # Measured 1, 7/8, 1/2 and 0; the unknown one counts as 1/2 and follows the question before it.
    assert [q.index for q in easy_first(QUESTIONS, MEASURED)] == [0, 3, 1, 4, 2]
    source = source_of(spec(order="easy_first"), QUESTIONS, RunState(), MEASURED)
    assert [q.index for q in source.draw(7)] == [0, 3, 1, 4, 2, 0, 3]
    later = source_of(spec(order="easy_first"), QUESTIONS, RunState(position=7), MEASURED)
    assert [q.index for q in later.draw(2)] == [1, 4]


def test_bounds_exclude_questions_measured_outside():
    section = CurriculumSection(measured="x", min_solve_rate=0.1, max_solve_rate=0.875)
    assert [q.index for q in within(QUESTIONS, MEASURED, section)] == [1, 3, 4]


def test_an_empty_dataset_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        LearnableSource([], seed=0, uniform=0.1, measured={}, running={})
