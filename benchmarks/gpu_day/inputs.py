"""The model and the clips: random weights at Qwen2-Audio-7B's widths, or the tiny model's; tones in noise."""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen2AudioProcessor

from audio_qa.dataset import read_jsonl, write_jsonl
from audio_qa.question import Question
from benchmarks.gpu_day.plan import Home
from benchmarks.gpu_day.running import Findings
from benchmarks.support.learner_workload import FAMILY, Workload, make_questions, small_model, small_processor
from learner.checkpoint.export import write_checkpoint
from learner.tiny.architecture import make_config, make_model, make_processor

_SEED = 0


def widened(tokenizer: PreTrainedTokenizerFast, rows: int) -> PreTrainedTokenizerFast:
    """Return the tokenizer with further ordinary tokens, up to `rows`: every row of a published head has a token.

    No text is split into them, since no merge makes them; the model can sample them.
    """
    document: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary: dict[str, int] = document["model"]["vocab"]
    # Every second one starts a word, as about half of a published vocabulary does.
    vocabulary |= {f"{'Ġ' if i % 2 else ''}t{i}": i for i in range(len(tokenizer), rows)}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(document)),
        eos_token=tokenizer.eos_token,
        pad_token=tokenizer.pad_token,
        additional_special_tokens=[
            t for t in tokenizer.all_special_tokens if t not in (tokenizer.eos_token, tokenizer.pad_token)
        ],
        model_max_length=tokenizer.model_max_length,
    )


def _write_model(home: Home) -> int:
    """Write the checkpoint; return its number of parameters."""
    plan = home.plan
    if plan.small:
        processor = make_processor()
        model = make_model(make_config(processor), _SEED)
    else:
        narrow = small_processor()
        tokenizer = widened(narrow.tokenizer, plan.shape.vocabulary)
        processor = Qwen2AudioProcessor(
            feature_extractor=narrow.feature_extractor, tokenizer=tokenizer, chat_template=narrow.chat_template
        )
        with torch.device(plan.device):
            model = small_model(processor, plan.shape, _SEED)
        model.generation_config = GenerationConfig(
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=True
        )
    write_checkpoint(home.model, FAMILY, model.to(getattr(torch, plan.dtype)), processor)
    return sum(parameter.numel() for parameter in model.parameters())


def questions_of(home: Home) -> list[Question]:
    """Return the questions."""
    return read_jsonl(home.questions, name="gpu-day")


async def write_inputs(home: Home) -> Findings:
    """Write model, clips and questions."""
    parameters = _write_model(home)
    home.report(f"{parameters / 1e6:,.0f} M parameters written")
    sizes = home.plan.sizes
    # Twice the questions of a batch, so that a job's steps do not all have the same ones.
    workload = Workload(questions=2 * sizes.questions, clip_seconds=sizes.clip_seconds)
    write_jsonl(home.questions, make_questions(home.folder / "clips", workload))
    size = sum(file.stat().st_size for file in Path(home.model).iterdir())
    return Findings(
        checks={"written": len(questions_of(home)) == workload.questions},
        measured={"parameters": parameters, "model_bytes": size, "layers": home.plan.layers},
    )
