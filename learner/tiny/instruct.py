"""Instruction training of the tiny model: it learns the answer format of the paper's prompts.

It sees few questions of all types, about clips of a separate split: enough for the format and for some correct answers
at the start of reinforcement learning, far too few to answer well. The thinking before an answer is the caption of the
clip, in the words of caption training.
"""

from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel

from audio_qa.chat import render
from audio_qa.prompt import PromptTemplate, solution_text
from audio_qa.question import Question
from audio_qa.synthetic.benchmark import QUESTION_TYPES, draw
from learner.schedule import Schedule
from learner.tiny.examples import Example, Report, encode_examples, train

SPLIT = "instruct"


@dataclass(frozen=True, slots=True)
class InstructRecipe:
    """Settings of instruction training. A change here makes another model."""

    questions: int = 60
    steps: int = 90
    batch_size: int = 32
    learning_rate: float = 5e-4
    weight_decay: float = 0.0
    warmup_steps: int = 5


def instruct_examples(processor: Any, seed: int, count: int) -> list[Example]:
    """Encode each question under each of the paper's prompts, with its target answer."""
    texts, targets, sounds = [], [], []
    for index in range(count):
        kind = QUESTION_TYPES[index % len(QUESTION_TYPES)]
        scene, choices, answer = draw(seed, SPLIT, index, kind)
        question = Question(SPLIT, index, f"{SPLIT}-{index}", "", kind.text, choices, answer, kind.domain, kind.name)
        for template in PromptTemplate:
            thought = f"<think>{scene.caption}</think>" if template is PromptTemplate.THINK else ""
            texts.append(render(processor, question, template))
            targets.append(thought + solution_text(answer, template))
            sounds.append(scene.samples)
    return encode_examples(processor, texts, sounds, targets)


def train_instructions(
    model: PreTrainedModel, processor: Any, recipe: InstructRecipe, seed: int, report: Report
) -> None:
    """Train `model` in place on answered questions."""
    examples = instruct_examples(processor, seed, recipe.questions)
    train(
        model,
        examples,
        steps=recipe.steps,
        batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate,
        schedule=Schedule.CONSTANT,
        weight_decay=recipe.weight_decay,
        warmup_steps=recipe.warmup_steps,
        seed=seed,
        report=lambda done: report("training on answers", done, recipe.steps),
    )
