"""The rows of the paper's table (arXiv 2503.11197), with the figures it has for them."""

from dataclasses import dataclass

DOMAINS = ("sound", "music", "speech")


@dataclass(frozen=True, slots=True)
class PaperFigures:
    """Accuracy on MMAU's test-mini, percent."""

    sound: float
    music: float
    speech: float
    average: float


@dataclass(frozen=True, slots=True)
class TableRow:
    """One row; `name` is that of its recipe's file."""

    name: str
    title: str
    paper: PaperFigures


ROWS = (
    TableRow("zero_shot", "Zero-shot", PaperFigures(54.95, 50.98, 42.04, 49.20)),
    TableRow("chain_of_thought", "Chain of thought", PaperFigures(61.86, 56.29, 55.26, 57.80)),
    TableRow("sft_full_1", "SFT full <1>", PaperFigures(60.96, 49.19, 45.35, 51.80)),
    TableRow("sft_lora_1", "SFT LoRA <1>", PaperFigures(58.26, 58.08, 52.58, 56.40)),
    TableRow("grpo_2", "GRPO <2>", PaperFigures(69.37, 66.77, 57.36, 64.50)),
    TableRow("grpo_3", "GRPO <3>", PaperFigures(66.67, 62.87, 53.75, 61.10)),
)
NAMES = tuple(row.name for row in ROWS)

HUMAN = PaperFigures(86.31, 78.22, 82.17, 82.23)
"""Human accuracy as quoted by the paper."""

QUESTIONS = (("grpo_2", "sft_full_1"), ("grpo_2", "sft_lora_1"), ("grpo_2", "grpo_3"))
"""Pairs of rows that the paper compares: reinforcement learning with supervision, and with or without thinking."""
