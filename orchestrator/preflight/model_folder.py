"""Check a model's folder: files, family and context."""

from pathlib import Path

from audio_qa.families import FACTS, read_config
from orchestrator.job.sections.model import TINY_MODEL
from orchestrator.job.spec import TO_FILL_IN, JobSpec
from orchestrator.job.spec_file import SpecError


def check_model_folder(folder: str) -> None:
    """Raise SpecError unless `folder` looks like a Hugging Face checkpoint of a known family with its processor."""
    if folder.startswith(TO_FILL_IN):
        name = folder.removeprefix(TO_FILL_IN)
        raise SpecError(f"model.path: put the folder of your {name} in the place of {folder!r}")
    home = Path(folder)
    if not home.is_dir():
        raise SpecError(
            f"model.path: {folder!r} is no folder; name one with a Hugging Face checkpoint, or {TINY_MODEL}"
        )
    for name, what in _MODEL_FILES.items():
        alternative = {"preprocessor_config.json": "processor_config.json"}.get(name, name)
        if not (home / name).is_file() and not (home / alternative).is_file():
            raise SpecError(f"model.path: {folder!r} lacks {name}: {what}")
    if not list(home.glob("*.safetensors")) and not list(home.glob("*.bin")):
        raise SpecError(f"model.path: {folder!r} holds no weights (*.safetensors)")
    try:
        model_type = read_config(folder).get("model_type")
    except (ValueError, AttributeError) as error:
        raise SpecError(f"model.path: {folder!r}: config.json is not valid JSON ({error})") from error
    if model_type == "qwen2_5_omni_thinker":
        raise SpecError(
            f"model.path: {folder!r} is a thinker by itself, which vLLM does not load; name a folder in the layout of "
            "the published Qwen2.5-Omni (model_type qwen2_5_omni, with or without a talker)"
        )
    if model_type not in FACTS:
        raise SpecError(f"model.path: {folder!r} is a {model_type!r} model; Earshot trains {', '.join(FACTS)}")


def model_context(folder: str) -> int | None:
    """The longest sequence the checkpoint in `folder` says it can hold, in tokens; None where it says nothing."""
    config = read_config(folder)
    for key in FACTS[config["model_type"]].text_config:
        config = config.get(key, {})
    found = config.get("max_position_embeddings")
    return int(found) if found is not None else None


def check_context(spec: JobSpec) -> None:
    """Raise SpecError if the job asks for a longer context than its model has."""
    holds = model_context(spec.model.path)
    if holds is not None and spec.model.max_context > holds:
        raise SpecError(
            f"model.max_context: {spec.model.max_context} tokens are too many: lower it; "
            f"{spec.model.path!r} holds {holds}"
        )


_MODEL_FILES = {
    "config.json": "the model's configuration",
    "preprocessor_config.json": "the processor of the audio (a processor is saved with its save_pretrained)",
    "tokenizer_config.json": "the tokenizer",
}
