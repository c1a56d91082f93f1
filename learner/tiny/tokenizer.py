"""A byte-level BPE tokenizer for the tiny model, trained on the words of the synthetic benchmark."""

from collections.abc import Iterator

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from audio_qa.prompt import PromptTemplate, user_text
from audio_qa.question import Question
from audio_qa.synthetic.benchmark import QUESTION_TYPES
from audio_qa.synthetic.scene import SCENES

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>")
VOCABULARY_SIZE = 640

# A tag is one piece, and so is a word with or without the space before it: the option 'two' in a list and the answer
# <answer>two</answer> contain the same token. GPT-2's pattern would split 'two into 't and wo.
_PIECES = r"</?\p{L}+>| ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+?|\s+"


def _corpus() -> Iterator[str]:
    """Yield all texts that the tiny model sees, each word often enough to become one token."""
    rng = np.random.default_rng(0)
    for kind in QUESTION_TYPES:
        for template in PromptTemplate:
            for _ in range(8):
                choices = tuple(str(c) for c in rng.permutation(kind.answers))
                question = Question("corpus", 0, "", "", kind.text, choices, choices[0])
                yield user_text(question, template)
                yield f"<answer>{choices[0]}</answer>"
                yield f"<think>{choices[0]}</think>"
    for scene in SCENES:
        for _ in range(60):
            yield scene(rng).caption
    for _ in range(8):
        yield "system\nYou are a helpful assistant.\nuser\nAudio 1: \nDescribe the audio.\nassistant\n"


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Train the tokenizer. It is the same on every machine: it depends on the benchmark's texts only, not on a seed."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=[t for t in SPECIAL_TOKENS if t not in ("<|im_end|>", "<|endoftext|>")],
        model_max_length=1024,
    )
