"""Check a model's folder: files, family and context."""

from pathlib import Path

from audio_qa.families import FACTS, read_config
from orchestrator.job.sections.model import TINY_CONTEXT, TINY_MODELS
from orchestrator.job.spec import PLACEHOLDER_PREFIX, JobSpec
from orchestrator.job.spec_file import SpecError


def check_model_folder(folder: str) -> None:
    """Raise SpecError unless `folder` holds a Hugging Face checkpoint of a known family, with its processor."""
    if folder.startswith(PLACEHOLDER_PREFIX):
        name = folder.removeprefix(PLACEHOLDER_PREFIX)
        raise SpecError(f"model.path: replace {folder!r} by the folder of your {name}")
    home = Path(folder)
    if not home.is_dir():
        raise SpecError(
            f"model.path: {folder!r} is not a folder; name one with a Hugging Face checkpoint, or "
            f"{' or '.join(TINY_MODELS)}"
        )
    for name, what in _MODEL_FILES.items():
        alternative = {"preprocessor_config.json": "processor_config.json"}.get(name, name)
        if not (home / name).is_file() and not (home / alternative).is_file():
            raise SpecError(
                f"model.path: {folder!r} lacks {name}: {what}; name the folder of a Hugging Face checkpoint"
            )
    if not list(home.glob("*.safetensors")) and not list(home.glob("*.bin")):
        raise SpecError(f"model.path: {folder!r} holds no weights (*.safetensors)")
    try:
        model_type = read_config(folder).get("model_type")
    except (ValueError, AttributeError) as error:
        raise SpecError(f"model.path: {folder!r}: config.json is not valid JSON ({error})") from error
    if model_type == "qwen2_5_omni_thinker":
        raise SpecError(
            f"model.path: {folder!r} is a thinker alone, which vLLM does not load; name a folder in the layout of "
            "the published Qwen2.5-Omni (model_type qwen2_5_omni, with or without a talker)"
        )
    if model_type not in FACTS:
        raise SpecError(f"model.path: {folder!r} is a {model_type!r} model; Earshot trains {', '.join(FACTS)}")


def model_context(folder: str) -> int | None:
    """Return the context of the checkpoint in `folder`, in tokens; None if its configuration has none."""
    config = read_config(folder)
    for key in FACTS[config["model_type"]].text_config:
        config = config.get(key, {})
    found = config.get("max_position_embeddings")
    return int(found) if found is not None else None


def context_for(folder: str) -> int:
    """Return the context to ask a model with by default: its own, up to 2048 tokens. Raises SpecError for no model."""
    if folder in TINY_MODELS:
        return TINY_CONTEXT
    check_model_folder(folder)
    return min(_LONGEST_CONTEXT, model_context(folder) or _LONGEST_CONTEXT)


def check_context(spec: JobSpec) -> None:
    """Raise SpecError if the job's context is longer than its model's."""
    limit = TINY_CONTEXT if spec.model.path in TINY_MODELS else model_context(spec.model.path)
    if limit is not None and spec.model.max_context > limit:
        raise SpecError(
            f"model.max_context: {spec.model.max_context} tokens are too many: lower it; "
            f"the context of {spec.model.path!r} is {limit}"
        )


_LONGEST_CONTEXT = 2048
_MODEL_FILES = {
    "config.json": "the model's configuration",
    "preprocessor_config.json": "the audio processor (save_pretrained of the processor writes it)",
    "tokenizer_config.json": "the tokenizer",
}
