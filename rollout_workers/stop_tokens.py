"""Which tokens end the model's turn."""

from typing import Any

from transformers import GenerationConfig

_END_OF_TURN = "<|im_end|>"


def stop_token_ids(model: str, tokenizer: Any) -> tuple[int, ...]:
    """The tokenizer's end of text, the chat's end of turn and what the checkpoint's generation config adds, sorted."""
    ids = {tokenizer.eos_token_id, tokenizer.get_vocab().get(_END_OF_TURN)}
    try:
        ends = GenerationConfig.from_pretrained(model).eos_token_id
    except OSError:  # a checkpoint without a generation config
        ends = None
    ids.update(ends if isinstance(ends, list) else [ends])
    return tuple(sorted(i for i in ids if i is not None))
