"""Check the whole of a model's folder: files, documents, weights, and that they fit together.

Only headers and small files are read: the folder of a model with 7B parameters takes about 0.1 s.
"""

from pathlib import Path

import msgspec

from audio_qa.errors import shown
from audio_qa.families import FamilyFacts, facts_of
from audio_qa.model_folder.architecture import audio_config, check_architecture
from audio_qa.model_folder.documents import (
    AGAIN,
    ModelError,
    Section,
    check_files,
    document,
    end_token_ids,
    read_bytes,
)
from audio_qa.model_folder.layouts import LAYOUTS
from audio_qa.model_folder.references import check_references
from audio_qa.model_folder.weights import pickled_weights, stored_weights, weight_files

_DOCUMENTS = {
    "config.json": "the model's configuration",
    "preprocessor_config.json": "the audio processor (save_pretrained of the processor writes it)",
    "tokenizer_config.json": "the tokenizer",
}
_PROCESSOR = ("processor_config.json", "preprocessor_config.json")
_FEWEST_MERGES = 0.99
"""Smallest share of a vocabulary's tokens that merges.txt makes; a few may be markers."""
_POSITIONS_OF_SECOND = 50
"""Positions of the audio tower: two mel frames are one."""
_ADAPTER = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")


class _Token(msgspec.Struct):
    id: int
    content: str


class _Tokenizer(msgspec.Struct):
    model: msgspec.Raw
    added_tokens: list[_Token] = []


def check_folder(folder: str) -> None:
    """Raise ModelError unless `folder` holds a whole Hugging Face checkpoint of a known family, with its processor."""
    home = Path(folder)
    check_files(home)
    _check_present(home)
    check_references(home)
    facts, config = facts_of(folder), document(home / "config.json")
    for level in (config, config.section(*facts.text_config[:-1]), config.section(*facts.text_config)):
        if level.values.get("quantization_config") is not None:
            raise ModelError(
                f"{level.where}: quantization_config is set; quantized weights cannot be trained: name the folder of "
                "the model in bfloat16, float16 or float32"
            )
    if (other := config.values.get("transformers_weights")) is not None:
        raise ModelError(
            f"{config.where}: transformers_weights names {shown(other)}, which the rollout workers would not read; "
            "remove the key, and name the file model.safetensors"
        )
    stored = stored_weights(home)
    check_architecture(home, facts, config, stored)
    rows = stored[f"{LAYOUTS[facts.model_type].decoder}embed_tokens.weight"].shape[0]
    _check_processor(home, facts, config)
    _check_tokenizer(home, facts, config, rows)
    if too_large := [i for i in end_token_ids(home) if i >= rows]:
        raise ModelError(
            f"{folder!r}: eos_token_id in generation_config.json has {too_large[0]}, and the vocabulary has {rows} "
            "tokens; set it to the tokenizer's number for the end of a turn"
        )


def feature_extractor(folder: Path) -> Section:
    """Return the settings of a folder's feature extractor. Raises ModelError."""
    for name in _PROCESSOR:
        if (folder / name).is_file():
            settings = document(folder / name)
            for key in ("feature_extractor", "audio_processor"):
                if key in settings.values:
                    return settings.section(key)
            if "feature_size" in settings.values or "chunk_length" in settings.values:
                return settings
    return Section(f"{str(folder)!r}: {_PROCESSOR[-1]}", {})


def _check_present(home: Path) -> None:
    where = repr(str(home))
    adapter = next((name for name in _ADAPTER if (home / name).is_file()), None)
    if adapter is not None:
        raise ModelError(
            f"{where} holds an adapter ({adapter}), which is not read; merge it into its base model (merge_and_unload "
            f"of PEFT), save that with its processor, or remove {adapter} if the weights are merged"
        )
    template = home / "chat_template.jinja"
    if template.is_file() and not read_bytes(template).strip():
        raise ModelError(f"{where}: {template.name} is empty; {AGAIN}")
    if pickled_weights(home) and not any(home.glob("*.safetensors")):
        weight_files(home, {})  # raises: more may be missing, but this is what the user has to know
    for name, what in _DOCUMENTS.items():
        alternative = _PROCESSOR[0] if name in _PROCESSOR else name
        if not (home / name).is_file() and not (home / alternative).is_file():
            remedy = (_elsewhere(home) if name == "config.json" else None) or _NAME_ANOTHER
            raise ModelError(f"{where} lacks {name}: {what}; {remedy}")
    if not (home / "tokenizer.json").is_file():
        lacks = [name for name in ("vocab.json", "merges.txt") if not (home / name).is_file()]
        if lacks:
            raise ModelError(f"{where} lacks tokenizer.json: the tokenizer's vocabulary; {AGAIN}")


def _elsewhere(home: Path) -> str | None:
    """Return which folder the user meant by one that holds checkpoints; None for any other."""
    for pattern in ("snapshots/*/config.json", "checkpoints/step-*/config.json", "*/config.json"):
        inside = [path for path in home.glob(pattern) if path.resolve().is_relative_to(home.resolve())]
        found = sorted(inside, key=lambda path: (len(path.parent.name), path.parent.name))
        if found:
            return f"name the folder of a checkpoint in it: {found[-1].parent}"
    return None


_NAME_ANOTHER = "name the folder of a Hugging Face checkpoint"


def _check_processor(home: Path, facts: FamilyFacts, config: Section) -> None:
    for name in (*_PROCESSOR, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"):
        if (home / name).is_file():
            document(home / name)
    extractor = feature_extractor(home)
    for name, taken in (("sampling_rate", 16_000), ("hop_length", 160), ("n_fft", 400)):
        if extractor.number(name) not in (None, taken):
            raise ModelError(
                f"{extractor.where}: {name} is {extractor.values[name]}, and the audio tower takes {taken}; put the "
                f"model's own processor there, or {AGAIN}"
            )
    seconds, positions = extractor.number("chunk_length"), audio_config(facts, config).number("max_source_positions")
    whole_clip = "embed_positions.weight" in LAYOUTS[facts.model_type].tower_ends  # otherwise windows of it
    if whole_clip and seconds is not None and positions is not None and seconds * _POSITIONS_OF_SECOND > positions:
        raise ModelError(
            f"{extractor.where}: chunk_length is {seconds} s, and the audio tower of config.json has positions for "
            f"{positions / _POSITIONS_OF_SECOND:g} s (max_source_positions {positions}); put the model's own "
            f"processor there, or {AGAIN}"
        )
    bins, configured = extractor.number("feature_size"), audio_config(facts, config).number("num_mel_bins")
    if bins is not None and configured is not None and bins != configured:
        raise ModelError(
            f"{extractor.where}: feature_size is {bins}, and the audio tower of config.json takes num_mel_bins "
            f"{configured}; put the model's own processor there, or {AGAIN}"
        )


def _check_tokenizer(home: Path, facts: FamilyFacts, config: Section, rows: int) -> None:
    """Raise ModelError for a tokenizer whose files cannot be read, or whose tokens are not the model's."""
    path = home / "tokenizer.json"
    where = f"{str(home)!r}: {path.name}"
    if not path.is_file():
        _check_merges(home)
        return
    try:
        tokens = msgspec.json.decode(read_bytes(path), type=_Tokenizer).added_tokens
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ModelError(f"{where} is not a tokenizer ({shown(str(error))}); {AGAIN}") from error
    last = max(tokens, key=lambda token: token.id, default=None)
    if last is not None and last.id >= rows:
        raise ModelError(
            f"{where}: the token {shown(last.content)} has the number {last.id}, and the model has {rows} rows of "
            f"embeddings; put the model's own tokenizer there, or {AGAIN}"
        )
    thinker = config.section(*facts.text_config[:-1])
    configured = thinker.values.get("audio_token_index", thinker.values.get("audio_token_id"))
    audio = next((token.id for token in tokens if token.content == facts.audio_token), None)
    if audio is not None and configured is not None and audio != configured:
        raise ModelError(
            f"{where}: {facts.audio_token} has the number {audio}, and config.json {shown(configured)}; put the "
            f"model's own tokenizer there, or {AGAIN}"
        )


def _check_merges(home: Path) -> None:
    """Raise ModelError if merges.txt lacks lines, with which a text would become other tokens than the model knows.

    Each token of the vocabulary that is longer than a letter is made by a line; markers such as <|im_end|> are not.
    """
    tokens = document(home / "vocab.json").values
    made = sum(len(token) > 1 and not (token[0] == "<" and token[-1] == ">") for token in tokens)
    lines = read_bytes(home / "merges.txt").decode("utf-8", errors="replace").splitlines()
    merges = sum(len(line.split()) == 2 and not line.startswith("#version") for line in lines)
    if merges < made * _FEWEST_MERGES:
        raise ModelError(
            f"{str(home)!r}: merges.txt has {merges:,} lines, and the tokens of vocab.json need {made:,}; {AGAIN}"
        )
