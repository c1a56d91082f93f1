"""Refuse a model's folder whose documents lead out of it: transformers or vLLM would read files there, or fetch code.

Invariant: all that is read of a model lies in its folder, so that whoever may read the folder may read the model.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from audio_qa.errors import shown
from audio_qa.model_folder.documents import ModelError, document

_AUDIO_TOKENIZER = "audio_tokenizer"
"""Key, and beginning of the name of a file, that name another model, which transformers loads with the processor."""
_IMPLEMENTATIONS = ("attn_implementation", "experts_implementation")
"""Ends of keys whose value may be a repository of the Hub, whose code is then run."""
_OTHER_MODEL = "speculators_config"
"""Key of config.json that names the model which vLLM reads instead."""
_TOKENIZERS = "fast_tokenizer_files"


def check_references(home: Path) -> None:
    """Raise ModelError if a document in a model's folder leads to anything outside of the folder."""
    where = repr(str(home))
    if (home / f"{_AUDIO_TOKENIZER}_config.json").exists():
        raise ModelError(f"{where} holds {_AUDIO_TOKENIZER}_config.json, which names another model; remove the file")
    processor, tokenizer = home / "processor_config.json", home / "tokenizer_config.json"
    if processor.is_file() and _AUDIO_TOKENIZER in document(processor).values:
        raise ModelError(f"{where}: {processor.name}: {_AUDIO_TOKENIZER} names another model; remove the key")
    names = document(tokenizer).values.get(_TOKENIZERS, []) if tokenizer.is_file() else []
    for name in names if isinstance(names, list) else [names]:
        if not isinstance(name, str) or Path(name).name != name:
            raise ModelError(
                f"{where}: {tokenizer.name}: {_TOKENIZERS} has {shown(name)}, which is not a file of the folder; "
                "remove the key"
            )
    for key, value in _entries(document(home / "config.json").values):
        if key == _OTHER_MODEL and value is not None:
            raise ModelError(f"{where}: config.json: {key} names another model; name the folder of that one")
        if key.endswith(_IMPLEMENTATIONS) and any("/" in text for text in _texts(value)):
            raise ModelError(
                f"{where}: config.json: {key} is {shown(value)}, code that is not a part of the model; remove the key"
            )


def _entries(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield keys and values of an object and of all objects in it."""
    left: list[Any] = [values]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            yield from value.items()
            left.extend(value.values())
        elif isinstance(value, list):
            left.extend(value)


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from (text for text in value.values() if isinstance(text, str))
