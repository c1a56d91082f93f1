"""Clips, questions and groups for the learner's tests."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from support.devices import DEVICES
from support.learner import STEADY

from audio_qa.chat import banned_token_ids, render
from audio_qa.prompt import PromptTemplate
from audio_qa.question import Question
from learner.families.registry import family_of
from learner.model.loading import load_processor
from learner.model.prompts import PromptEncoder
from learner.settings import LearnerSettings
from protocol.training import TrainingCompletion, TrainingGroup

CLIP_SECONDS = (0.31, 1.0, 1.73, 2.0)
ANSWERS = (("two", "one"), ("one", "rising falling", "", "two"), ("flute", "a"), ("noise", "four", "one"))


@pytest.fixture(scope="session", autouse=True)
def full_precision():
    """Disable TF32, which rounds the inputs of a GPU's convolutions to 10 bits: the tests compare functions."""
    torch.backends.cudnn.allow_tf32 = False


@pytest.fixture(scope="session", params=DEVICES)
def device(request) -> str:
    """The device of a model. Exceeding the recompilation limit is an error instead of a fall-back to eager mode."""
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    return str(request.param)


@pytest.fixture(scope="session")
def processor(tiny_folder):
    return load_processor(str(tiny_folder))


@pytest.fixture(scope="session")
def banned(processor):
    return banned_token_ids(processor.tokenizer, len(processor.tokenizer), [processor.tokenizer.eos_token_id])


@pytest.fixture(scope="session")
def questions(tmp_path_factory) -> list[Question]:
    """Four questions about clips of four lengths."""
    folder: Path = tmp_path_factory.mktemp("clips")
    rng = np.random.default_rng(0)
    questions = []
    for i, seconds in enumerate(CLIP_SECONDS):
        path = folder / f"{i}.wav"
        soundfile.write(path, rng.standard_normal(int(seconds * 16_000)) * 0.1, 16_000)
        choices = ("one", "two", "three", "four")
        questions.append(Question("clips", i, str(i), str(path), "How many sounds are heard?", choices, "two"))
    return questions


@pytest.fixture(scope="session")
def encoder(tiny_folder, processor) -> PromptEncoder:
    return PromptEncoder(family_of(str(tiny_folder)), processor)


@pytest.fixture(scope="session")
def groups(questions, encoder, processor) -> list[TrainingGroup]:
    """Groups of different sizes, including an empty completion, with random advantages."""
    rng = np.random.default_rng(1)
    tokenizer = processor.tokenizer
    made = []
    for question, answers in zip(questions, ANSWERS, strict=True):
        completions = []
        for answer in answers:
            ids = (*tokenizer(f"<answer>{answer}</answer>")["input_ids"], tokenizer.eos_token_id) if answer else ()
            logprobs = tuple(float(x) for x in -rng.uniform(0.1, 6, len(ids)))
            completions.append(TrainingCompletion(tuple(ids), logprobs, float(rng.normal())))
        prompt = encoder.encode(question, PromptTemplate.ANSWER).token_ids
        made.append(TrainingGroup(question, PromptTemplate.ANSWER, prompt, tuple(completions), 0))
    return made


@pytest.fixture(scope="session")
def rendered(processor, questions):
    return [render(processor, q, PromptTemplate.ANSWER) for q in questions]


@pytest.fixture
def make_rank(alone, tiny_folder, groups):
    """Create ranks in this process, at the start of a phase, with the groups' clips read."""
    from learner.messages import PhaseSettings
    from learner.rank import LearnerRank

    made = []

    def make(phase=None, resume=None, folder=tiny_folder, **settings):
        phase = phase or PhaseSettings(STEADY, total_steps=4, max_tokens=10, beta=settings.get("beta", 0.0))
        rank = LearnerRank(0, 1, LearnerSettings.model_validate({"threads": 1, "beta": phase.beta, **settings}))
        rank.start_phase(str(folder), phase, resume)
        assert rank.prepare([(g.question, g.template) for g in groups]) == {}
        made.append(rank)
        return rank

    yield make
    for rank in made:
        rank.engine.close()
