"""The model folder and the prompts are checked for every family, before anything is started."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from support.families.shared import CONTEXT
from support.families.tiny import TINY, write_tiny

from audio_qa.audio import AudioError
from audio_qa.families import FACTS, facts_of
from audio_qa.prompt import PromptTemplate
from audio_qa.question import Question
from orchestrator.job.memory.sizes import sizes_of
from orchestrator.job.sections.data import SYNTHETIC
from orchestrator.job.sections.model import TINY_MODELS
from orchestrator.job.spec import JobSpec
from orchestrator.job.spec_file import SpecError
from orchestrator.preflight.model_folder import check_model_folder, model_context
from orchestrator.preflight.plan import plan
from orchestrator.preflight.prepare import check_prompts, prepare


@pytest.fixture(scope="module", params=TINY)
def folder(request, tmp_path_factory) -> str:
    return str(write_tiny(request.param, tmp_path_factory.mktemp("models") / request.param))


@pytest.fixture(scope="module")
def questions(tmp_path_factory) -> list[Question]:
    """Return questions about clips whose last frame is complete, partial, and just complete."""
    home = tmp_path_factory.mktemp("clips")
    made = []
    for i, samples in enumerate((9_600, 24_001, 31_999)):
        soundfile.write(home / f"{i}.wav", np.random.default_rng(i).standard_normal(samples) * 0.1, 16_000)
        made.append(Question("clips", i, str(i), str(home / f"{i}.wav"), "What is heard?", ("a", "b"), "a"))
    return made


def test_a_written_folder_is_accepted_and_its_context_is_found(folder):
    check_model_folder(folder)
    assert model_context(folder) == (512 if facts_of(folder).model_type == "qwen2_audio" else CONTEXT)


def test_the_longest_prompt_matches_the_processor(folder, questions):
    from learner.families.registry import family_of
    from learner.model.loading import load_processor
    from learner.model.prompts import PromptEncoder

    encoder = PromptEncoder(family_of(folder), load_processor(folder))
    lengths = [len(encoder.encode(question, PromptTemplate.ANSWER).token_ids) for question in questions]

    def check(asked, room):
        return check_prompts(asked, folder, PromptTemplate.ANSWER, room=room, truncate=False, report=lambda *_: None)

    assert [check([question], CONTEXT) for question in questions] == lengths
    assert check(questions, max(lengths)) == max(lengths)
    with pytest.raises(SpecError, match=f"its prompt has {max(lengths)} tokens"):
        check(questions, max(lengths) - 1)


def test_the_processor_agrees_with_the_least_length_and_what_is_shorter_is_named(folder, tmp_path):
    from learner.families.registry import family_of
    from learner.model.loading import load_processor
    from learner.model.prompts import PromptEncoder

    encoder = PromptEncoder(family_of(folder), load_processor(folder))
    least = facts_of(folder).least_samples(160)

    def asked(samples: int) -> Question:
        path = tmp_path / f"{samples}.wav"
        soundfile.write(path, np.random.default_rng(samples).standard_normal(samples) * 0.1, 16_000)
        return Question("clips", samples, str(samples), str(path), "What is heard?", ("a", "b"), "a")

    audio = encoder.processor.tokenizer.convert_tokens_to_ids(facts_of(folder).audio_token)
    tokens = facts_of(folder).clip_tokens(least, 160)
    assert encoder.encode(asked(least), PromptTemplate.ANSWER).token_ids.count(audio) == tokens > 0
    with pytest.raises(AudioError, match=rf"{least - 1}\.wav.*too few for one audio token, which needs {least}"):
        encoder.encode(asked(least - 1), PromptTemplate.ANSWER)
    both = [asked(least), asked(least - 1)]
    has, needs = (rf"{samples / 16_000:.4f} s" for samples in (least - 1, least))
    with pytest.raises(SpecError, match=rf"question clips:{least - 1}: the clip '.*\.wav' has {has} .* needs {needs}"):
        check_prompts(both, folder, PromptTemplate.ANSWER, room=CONTEXT, truncate=True, report=lambda *_: None)


def test_a_clip_named_in_the_text_is_refused(folder, questions):
    token = facts_of(folder).audio_token
    odd = Question("clips", 9, "9", questions[0].audio, f"What is {token}?", ("a", "b"), "a")
    with pytest.raises(SpecError, match="instead of once"):
        check_prompts([odd], folder, PromptTemplate.ANSWER, room=CONTEXT, truncate=False, report=lambda *_: None)


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{% for message in messages %}", "the model's chat template fails"),
        ("{{ messages[7].text }}", "the model's chat template fails"),
        ("{{ raise_exception('one turn too many') }}", "one turn too many"),
        ("{{ messages[0]['content'] | length }}", "instead of once"),
    ],
)
def test_a_chat_template_that_fails_is_refused(folder, questions, tmp_path, template, words):
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "chat_template.jinja").write_text(template)
    with pytest.raises(SpecError, match=words) as error:
        check_prompts(questions, str(copy), PromptTemplate.ANSWER, room=CONTEXT, truncate=False, report=lambda *_: None)
    assert "\n" not in str(error.value)


def test_a_processor_that_cannot_be_loaded_is_refused(folder, questions, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "tokenizer.json").write_text('{"model": {"type": "BPE"}, "added_tokens": []}')
    with pytest.raises(SpecError, match=r"^model\.path: .*its processor cannot be loaded") as error:
        check_prompts(questions, str(copy), PromptTemplate.ANSWER, room=CONTEXT, truncate=False, report=lambda *_: None)
    assert len(str(error.value)) < 500


@pytest.mark.parametrize(
    ("model_type", "words"),
    [
        ("qwen2_5_omni_thinker", "vLLM does not load.*Qwen2.5-Omni"),
        ("qwen3_omni_moe_thinker", "vLLM does not load.*Qwen3-Omni"),
        ("llama", ", ".join(FACTS)),
    ],
)
def test_other_models_are_refused(folder, tmp_path, model_type, words):
    for path in Path(folder).iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    with pytest.raises(SpecError, match=words):
        check_model_folder(str(tmp_path))


@pytest.mark.parametrize("model", TINY_MODELS)
def test_the_context_of_a_built_in_model_is_checked(model):
    value = {"model": {"path": model}, "data": {"train": SYNTHETIC, "evaluation": SYNTHETIC}}
    spec = JobSpec.model_validate(value)
    for check in (plan, lambda spec: prepare(spec, lambda *_: None)):
        with pytest.raises(SpecError, match=f"2048 tokens are too many: lower it; the context of '{model}' is 512"):
            check(spec)
    fits = spec.model.model_copy(update={"max_context": 512})
    assert plan(spec.model_copy(update={"model": fits}))["model"] == model


def test_a_talker_is_not_counted(tmp_path):
    import torch
    from safetensors.torch import save_file

    tensors = {"thinker.model.norm.weight": torch.zeros(3), "talker.model.norm.weight": torch.zeros(5)}
    save_file(tensors, tmp_path / "model.safetensors")
    for family, total in (("qwen2_5_omni", 3), ("qwen2_audio", 8)):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": family}))
        assert sizes_of(tmp_path).total == total


def test_a_job_is_checked_without_torch():
    modules = (
        "orchestrator.cli.main, orchestrator.cli.run.run, orchestrator.preflight.prepare, orchestrator.preflight.plan"
    )
    loaded = f"import sys, {modules}; print(*sys.modules)"
    names = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "transformers", "vllm", "deepspeed"} & set(names)
