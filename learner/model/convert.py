"""Convert weights that PyTorch has pickled to safetensors: `python -m learner.model.convert FOLDER`.

Pickled files are read as plain tensors only, so that nothing in them is executed.
"""

import json
import pickle
import sys
from pathlib import Path

import torch

from audio_qa.model_folder.documents import AGAIN, ModelError
from audio_qa.model_folder.weights import INDEX, SINGLE, pickled_weights
from learner.model.tensor_file import write_tensors


def convert(folder: Path) -> list[Path]:
    """Write the weights in `pytorch_model*.bin` of a model's folder as safetensors beside them; return the new files.

    Raises ModelError: there are none, one cannot be read, or the folder has safetensors weights already.
    """
    pickled = pickled_weights(folder)
    if not pickled:
        raise ModelError(f"{str(folder)!r} holds no pytorch_model*.bin; {AGAIN}")
    targets = [path.with_name(path.name.replace("pytorch_", "", 1)).with_suffix(".safetensors") for path in pickled]
    for path in (*targets, folder / SINGLE, folder / INDEX):
        if path.exists():
            raise ModelError(f"{str(path)!r} exists; remove it if the weights in {pickled[0].name} are the model's")
    weight_map: dict[str, str] = {}
    for path, target in zip(pickled, targets, strict=True):
        tensors = _tensors(path)
        write_tensors(target, tensors, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, target.name)
    if targets != [folder / SINGLE]:
        (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}, indent=2) + "\n")
        targets.append(folder / INDEX)
    return targets


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a pickled file, each with its own storage, as safetensors wants them."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ModelError(f"{str(path)!r} cannot be read as tensors alone ({type(error).__name__}); {AGAIN}") from error
    if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise ModelError(f"{str(path)!r} holds something else than a model's weights by name; {AGAIN}")
    return {name: value.clone(memory_format=torch.contiguous_format) for name, value in content.items()}


def main() -> None:
    """Convert the folder that the command line names."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m learner.model.convert FOLDER")
    try:
        for path in convert(Path(sys.argv[1])):
            print(path)
    except ModelError as error:
        print(f"earshot: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
