"""The model in a stored checkpoint, without its training state.

Invariant: a model in the cache is complete, and is that of the checkpoint as it is stored now.
"""

import hashlib
from pathlib import Path

from audio_qa.errors import shown
from audio_qa.whole_file import whole_folder
from orchestrator.job.spec_file import SpecError
from orchestrator.storage import manifest as manifests
from orchestrator.storage.location import open_location
from orchestrator.storage.stored_run import fetch_files
from protocol.checkpoint import STATE_FOLDER


def fetch_model(url: str, cache: Path) -> Path:
    """Return the folder with the model of `…/checkpoints/step-N` in a storage; fetched unless it is in the cache.

    Raises:
        SpecError: there is no complete checkpoint at `url`.
        StorageError: it cannot be fetched, or is damaged.
    """
    storage, _, name = url.rstrip("/").rpartition("/")
    location = open_location(storage)
    text = location.read(f"{name}/{manifests.NAME}")
    if text is None:
        raise SpecError(
            f"{shown(url)} is not a stored checkpoint (it has no {manifests.NAME}); name one, as in "
            "STORAGE/RUN/checkpoints/step-N"
        )
    try:
        files = manifests.parse(text).files
    except ValueError as error:
        raise SpecError(f"{url}/{manifests.NAME} cannot be read: {error}") from error
    folder = cache / hashlib.sha256(text).hexdigest()[:32] / name
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    wanted = {file: entry for file, entry in files.items() if not file.startswith(f"{STATE_FOLDER}/")}
    try:
        with whole_folder(folder) as partial:
            fetch_files(location, name, wanted, partial)
    except OSError:
        # Another process has fetched the same model.
        if not folder.is_dir():
            raise
    return folder
