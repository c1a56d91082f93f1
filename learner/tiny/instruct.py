"""Shows the tiny model how the paper's prompts are answered: what an instruct model has learnt before it is trained.

It is shown few questions, of all types, about clips of a split of their own: enough for the form of an answer, and to
give reinforcement learning some right ones to begin with; far too few to answer well. What it is shown to think before
an answer is what it hears, in the words it learnt to hear with.
"""

from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel

from audio_qa.chat import render
from audio_qa.prompt import PromptTemplate, solution_text
from audio_qa.question import Question
from audio_qa.synthetic.benchmark import QUESTION_TYPES, draw
from learner.schedule import Schedule
from learner.tiny.examples import Example, Report, encode, train

SPLIT = "instruct"


@dataclass(frozen=True, slots=True)
class InstructRecipe:
    """How much it is shown. A change here makes another model."""

    questions: int = 60
    steps: int = 90
    batch_size: int = 32
    learning_rate: float = 5e-4
    weight_decay: float = 0.0
    warmup_steps: int = 5


def instruct_examples(processor: Any, seed: int, count: int) -> list[Example]:
    """Each question under each of the paper's prompts, with the answer it should get."""
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
    return encode(processor, texts, sounds, targets)


def teach_prompts(model: PreTrainedModel, processor: Any, recipe: InstructRecipe, seed: int, report: Report) -> None:
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
        report=lambda done: report("learning to answer", done, recipe.steps),
    )
