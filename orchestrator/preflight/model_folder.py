"""Check the model that a job names: its folder and its context."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shlex import quote

from audio_qa.errors import cause_of, shown
from audio_qa.families import facts_of
from audio_qa.files.remote import is_url
from audio_qa.model_folder.architecture import audio_config
from audio_qa.model_folder.documents import ModelError, Section, document
from audio_qa.model_folder.folder import check_folder
from orchestrator.job.sections.model import TINY_CONTEXT, TINY_HEADS, TINY_MODELS
from orchestrator.job.spec import PLACEHOLDER_PREFIX, JobSpec, Method
from orchestrator.job.spec_file import SpecError

_LONGEST_CONTEXT = 2048
_SHARED_TOWERS = {"glmasr": 20}
"""Families whose audio towers the processes of an engine share, too: `model_type`, and vLLM's default of the heads."""
_NOT_SHARED = frozenset({"granite_speech"})
"""Families that engines cannot share: each process of vLLM 0.32 would take a softmax over its part of the outputs of
Granite's encoder, and the clip's embeddings would be others than the learner's."""
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def check_model_folder(folder: str) -> None:
    """Raise SpecError unless `folder` holds a whole Hugging Face checkpoint of a known family, with its processor."""
    if folder.startswith(PLACEHOLDER_PREFIX):
        name = folder.removeprefix(PLACEHOLDER_PREFIX)
        raise SpecError(f"model.path: replace {folder!r} by the folder of your {name}")
    try:
        if not Path(folder).is_dir():
            raise SpecError(f"model.path: {folder!r} is not a folder; {_remedy(folder)}")
        with naming_the_key():
            check_folder(folder)
    except SpecError:
        raise
    except (OSError, ValueError) as error:
        # No right to enter the folder above, a name that is too long, a zero byte.
        raise SpecError(
            f"model.path: {shown(folder)} cannot be read ({cause_of(error)}); name another folder"
        ) from error


@contextmanager
def naming_the_key() -> Iterator[None]:
    """Turn a ModelError into a SpecError that begins with the key of the job file."""
    try:
        yield
    except ModelError as error:
        raise SpecError(f"model.path: {error}") from error


def model_context(folder: str) -> int | None:
    """Return the context of the checkpoint in `folder`, in tokens; None if its configuration has none.

    Raises SpecError.
    """
    with naming_the_key():
        return _decoder(folder).number("max_position_embeddings")


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


def check_attention(spec: JobSpec) -> None:
    """Raise SpecError if a job trains a model whose decoder attends within sliding windows, which the learner cannot.

    As transformers reads the configuration: layers from `max_window_layers` on have windows.
    """
    if spec.method is Method.EVALUATE or spec.model.path in TINY_MODELS:
        return
    with naming_the_key():
        text = _decoder(spec.model.path)
        layers = text.number("num_hidden_layers") or 32
    kinds, first = text.values.get("layer_types"), text.values.get("max_window_layers", 28)
    windows = isinstance(first, int) and first < layers
    if isinstance(kinds, list):
        windows = any(kind != "full_attention" for kind in kinds)
    elif not text.values.get("use_sliding_window") or text.values.get("sliding_window", 4096) is None:
        windows = False
    if windows:
        raise SpecError(
            f"model.path: {spec.model.path!r}: layers with a sliding window cannot be trained; set use_sliding_window "
            "to false in config.json if the model was trained without, or name another model"
        )


def check_tensor_parallel(spec: JobSpec) -> None:
    """Raise SpecError if the processes of an engine cannot share the heads of the job's model equally.

    As vLLM shares them: attention heads, and heads of keys and values, or copies of those if there are fewer. Of some
    families also those of the audio tower.
    """
    parts, path = spec.rollout.tensor_parallel, spec.model.path
    if parts == 1 or path.startswith(PLACEHOLDER_PREFIX):
        return
    of_tower = 0
    if path in TINY_MODELS:
        heads = keys = TINY_HEADS
    else:
        with naming_the_key():
            facts, text = facts_of(path), _decoder(path)
            if facts.model_type in _NOT_SHARED:
                raise SpecError(
                    f"rollout.tensor_parallel: {parts} processes cannot share a {facts.name} model such as {path!r}, "
                    "whose clips they would encode differently: set it to 1 and raise rollout.workers instead"
                )
            heads = text.number("num_attention_heads") or 1
            keys = text.number("num_key_value_heads") or heads
            if facts.model_type in _SHARED_TOWERS:
                tower = audio_config(facts, document(Path(path) / "config.json"))
                of_tower = tower.number("num_attention_heads") or _SHARED_TOWERS[facts.model_type]

    def fit(n: int) -> bool:
        return not (heads % n or of_tower % n or (keys % n and n % keys))

    if not fit(parts):
        fits = [str(n) for n in range(2, heads + 1) if fit(n)]
        of_others = f"{keys} of keys and values" + (f", {of_tower} of the audio tower" if of_tower else "")
        raise SpecError(
            f"rollout.tensor_parallel: {parts} processes cannot share the {heads} attention heads ({of_others}) of "
            f"{path!r} equally: set it, and rollout.gpus, to {' or '.join(fits) or '1'}"
        )


def _decoder(folder: str) -> Section:
    """Return the section of config.json about the decoder. Raises ModelError."""
    return document(Path(folder) / "config.json").section(*facts_of(folder).text_config)


def _remedy(folder: str) -> str:
    """Return what to do about a model's path that is not a folder."""
    path = Path(folder)
    if folder.startswith("hf:") or _HUB_NAME.fullmatch(folder) or _named_from_job_file(path):
        name = folder.removeprefix("hf:") if not path.is_absolute() else f"{path.parent.name}/{path.name}"
        return (
            f"if you mean {name} of Hugging Face, run hf download {quote(name)} --local-dir {quote(name)} and name "
            "that folder"
        )
    if is_url(folder):
        return (
            "copy the files at this URL to a folder and name that (earshot evaluate reads a stored checkpoint itself)"
        )
    if path.is_file():
        return f"name the folder of the checkpoint, such as {str(path.parent)!r}"
    return f"name one with a Hugging Face checkpoint, or {' or '.join(TINY_MODELS)}"


def _named_from_job_file(path: Path) -> bool:
    """Return whether an absolute path may have been `OWNER/NAME` of the hub, made absolute from the job file's folder.

    The folder of the job file exists, and OWNER in it does not.
    """
    hub_name = f"{path.parent.name}/{path.name}"
    return _HUB_NAME.fullmatch(hub_name) is not None and not path.parent.exists() and path.parent.parent.is_dir()
