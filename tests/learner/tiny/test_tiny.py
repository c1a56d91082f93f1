"""The tiny model: the real classes, reproducible from a seed, and able to learn from audio."""

import json

import pytest
import torch
from transformers import AutoProcessor, Qwen2AudioForConditionalGeneration, Qwen2AudioProcessor

from audio_qa.answer import format_ok
from audio_qa.prompt import PromptTemplate
from audio_qa.synthetic.benchmark import QUESTION_TYPES
from learner.families.qwen2_audio import Qwen2Audio
from learner.model.loading import ModelError, load_model
from learner.model.weights import weights_of
from learner.tiny.architecture import HEARS_SECONDS, make_config, make_model, make_processor
from learner.tiny.base import tiny_base, tiny_instruct
from learner.tiny.captioning import CaptioningRecipe
from learner.tiny.instruct import InstructRecipe, instruct_examples
from learner.tiny.tokenizer import SPECIAL_TOKENS, make_tokenizer
from orchestrator.job.memory.published import TINY_SIZES
from orchestrator.job.memory.sizes import sizes_of


def test_it_is_the_real_architecture_at_a_few_million_parameters(tiny_folder):
    model = Qwen2AudioForConditionalGeneration.from_pretrained(tiny_folder, dtype=torch.float32)
    assert isinstance(AutoProcessor.from_pretrained(tiny_folder), Qwen2AudioProcessor)
    assert sum(p.numel() for p in model.parameters()) == TINY_SIZES.total
    assert sizes_of(tiny_folder) == TINY_SIZES
    assert 1e6 < TINY_SIZES.total < 1e7
    assert model.config.audio_config.max_source_positions == HEARS_SECONDS * 50


def test_the_seed_decides_the_weights():
    config = make_config(make_processor())
    one, two, other = (
        {w.name: w.value() for w in weights_of(Qwen2Audio(), make_model(config, seed))} for seed in (0, 0, 1)
    )
    assert all(torch.equal(one[n], two[n]) for n in one)
    assert not torch.equal(one["language_model.lm_head.weight"], other["language_model.lm_head.weight"])


def test_every_answer_is_one_token_in_a_list_and_in_a_tag():
    tokenizer = make_tokenizer()
    for answer in {a for kind in QUESTION_TYPES for a in kind.answers}:
        (token,) = tokenizer(answer)["input_ids"]
        assert token in tokenizer(f"['{answer}', 'x']")["input_ids"]
        assert tokenizer(f"<answer>{answer}</answer>")["input_ids"][1] == token


@pytest.mark.parametrize("text", ["How many? ['one', 'two']", "<think>a b</think>", "Ünïcode ✓ 3.5\n\ttabs"])
def test_text_survives_the_tokenizer(text):
    tokenizer = make_tokenizer()
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_special_tokens_are_special():
    tokenizer = make_tokenizer()
    assert [tokenizer.convert_tokens_to_ids(t) for t in SPECIAL_TOKENS] == list(range(len(SPECIAL_TOKENS)))
    assert all(tokenizer.added_tokens_decoder[i].special for i in range(len(SPECIAL_TOKENS)))


def test_a_base_model_is_built_once_and_cached(tmp_path):
    recipe = CaptioningRecipe(clips=48, steps=30, batch_size=8, warmup_steps=3)
    seen = []
    made = tiny_base(3, lambda *progress: seen.append(progress), tmp_path, recipe)
    assert not made.cached
    assert seen[-1] == ("training on captions", 30, 30)
    # 30 steps teach the format of a caption: its domain, slashes and end. Random words are correct in 1 of 500 cases.
    assert made.words_right > 0.4
    again = tiny_base(3, lambda *_: pytest.fail("made again"), tmp_path, recipe)
    assert again == type(made)(made.folder, made.seconds, again.words_right, cached=True)
    assert json.loads((made.folder / "earshot.json").read_text())["seed"] == 3
    assert tiny_base(4, lambda *_: None, tmp_path, recipe).folder != made.folder


def test_the_instruct_model_is_trained_from_the_base_model(tmp_path):
    captioning, recipe = (
        CaptioningRecipe(clips=16, steps=1, batch_size=8),
        InstructRecipe(questions=4, steps=2, batch_size=6),
    )
    seen = []
    made = tiny_instruct(3, lambda *progress: seen.append(progress), tmp_path, recipe, captioning)
    assert seen[-1] == ("training on answers", 2, 2)
    again = tiny_instruct(3, lambda *_: pytest.fail("made again"), tmp_path, recipe, captioning)
    assert (again.folder, again.cached) == (made.folder, True)
    base = tiny_base(3, lambda *_: pytest.fail("made again"), tmp_path, captioning)
    one, other = (dict(load_model(Qwen2Audio(), str(b.folder), "float32").named_parameters()) for b in (base, made))
    changed = {name for name in one if not torch.equal(one[name], other[name])}
    assert "lm_head.weight" in changed
    # Sinusoidal positions never train.
    assert not any("embed_positions" in name for name in changed)


def test_instruction_examples_have_every_prompt_with_its_answer_format():
    processor = make_processor()
    examples = instruct_examples(processor, 0, 10)
    assert len(examples) == 30
    texts = [processor.tokenizer.decode(target[:-1]) for _, target in examples]
    for plain, tagged, thought in zip(texts[::3], texts[1::3], texts[2::3], strict=True):
        assert tagged == f"<answer>{plain}</answer>"
        assert thought.startswith("<think>")
        assert thought.endswith(f"</think>{tagged}")
        assert format_ok(thought, PromptTemplate.THINK)
    # The thinking is the caption of the clip, and fits the maximum length of the recipes.
    assert max(len(target) for _, target in examples) <= 24


def test_a_checkpoint_without_all_parameters_is_refused(tiny_folder, tmp_path):
    from safetensors.torch import load_file, save_file

    for path in tiny_folder.iterdir():
        if path.suffix != ".safetensors":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    state = load_file(tiny_folder / "model.safetensors")
    del state["language_model.lm_head.weight"]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 parameters, for example lm_head\.weight"):
        load_model(Qwen2Audio(), str(tmp_path), "float32")
