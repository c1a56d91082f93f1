"""The headers of a model's weights, in the format of safetensors, without reading the weights.

Invariant: the files that are found here are those that transformers reads for the learner and vLLM for the rollout
workers; a folder in which the two would read different files is refused.

A file begins with the length of its header (8 bytes, little-endian), then the header: a JSON object from the name of
each weight to its dtype, its shape and its place in the rest of the file, where weights follow one another without
gaps (https://github.com/huggingface/safetensors#format).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from shlex import quote
from typing import Annotated

import msgspec

from audio_qa.errors import shown
from audio_qa.model_folder.documents import AGAIN, ModelError, read_object

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_LONGEST_HEADER = 100_000_000
_BITS = {
    **dict.fromkeys(("F4",), 4),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 16),
    **dict.fromkeys(("I32", "U32", "F32"), 32),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 64),
}

_Count = Annotated[int, msgspec.Meta(ge=0)]


@dataclass(frozen=True, slots=True)
class StoredWeight:
    """One weight of a checkpoint, as the header of its file describes it."""

    dtype: str
    shape: tuple[int, ...]
    file: str
    place: tuple[int, int]
    """First byte in the file, and number of bytes."""


class _Entry(msgspec.Struct):
    dtype: str
    shape: tuple[_Count, ...]
    data_offsets: tuple[_Count, _Count]


def stored_weights(folder: Path) -> dict[str, StoredWeight]:
    """Return the weights of a checkpoint by name.

    Raises ModelError if a file is missing or damaged, holds what another one holds, or lacks what the index promises.
    """
    index = folder / INDEX
    promised = _weight_map(index) if index.is_file() else {}
    names = weight_files(folder, promised)
    found: dict[str, StoredWeight] = {}
    for name in names:
        for weight, stored in read_header(folder / name).items():
            if weight in found:
                raise ModelError(
                    f"{str(folder)!r}: both {found[weight].file} and {name} hold {weight}; remove the file that does "
                    f"not belong to the model, or {AGAIN}"
                )
            found[weight] = stored
    for weight, name in promised.items():
        if weight not in found or found[weight].file != name:
            raise ModelError(f"{str(folder)!r}: {INDEX} places {weight} in {name}, which does not hold it; {AGAIN}")
    if promised and not isinstance(read_object(index).get("metadata"), dict):
        raise ModelError(
            f"{str(folder)!r}: {INDEX} has no metadata, without which transformers does not read it; add "
            f'"metadata": {{}} to it, or {AGAIN}'
        )
    return found


def read_header(path: Path) -> dict[str, StoredWeight]:
    """Return the weights in one file. Raises ModelError if its header or its size is not as the format defines."""

    def damaged(what: str) -> ModelError:
        return ModelError(f"{str(path.parent)!r}: {path.name} {what}; {AGAIN}")

    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = file.read(length) if length <= min(size - 8, _LONGEST_HEADER) else b""
    except OSError as error:
        raise damaged(f"cannot be read ({error.strerror})") from error
    if size == 0:
        raise damaged("is empty")
    if length > _LONGEST_HEADER:
        raise damaged("is not a safetensors file (it does not begin with the length of a header)")
    if len(header) < length or size < 8:
        raise damaged("is cut within its header")
    entries = _entries(header)
    if entries is None:
        raise damaged("has a damaged header")
    if not entries:
        raise damaged("holds no weights")
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1].data_offsets):
        begin, stop = entry.data_offsets
        if begin != end or entry.dtype not in _BITS or prod(entry.shape) * _BITS[entry.dtype] != 8 * (stop - begin):
            raise damaged(f"has a damaged header (the place of {shown(name)} in the file is wrong)")
        end = stop
    expected = 8 + length + end
    if size != expected:
        what = "cut" if size < expected else "too long"
        raise damaged(f"is {what}: it has {size:,} bytes in place of {expected:,}")
    return {
        name: StoredWeight(entry.dtype, entry.shape, path.name, (8 + length + begin, stop - begin))
        for name, entry in entries.items()
        for begin, stop in (entry.data_offsets,)
    }


def pickled_weights(folder: Path) -> list[Path]:
    """Return the files of weights that PyTorch has pickled, without those of optimizers and the like, sorted."""
    return sorted(folder.glob("pytorch_model*.bin"))


def conversion(folder: Path) -> str | None:
    """Return how to convert weights that PyTorch pickled; None if the folder has none."""
    pickled = pickled_weights(folder)
    if not pickled:
        return None
    return f"convert {pickled[0].name} with: python -m learner.model.convert {quote(str(folder))}"


def _entries(header: bytes) -> dict[str, _Entry] | None:
    """Return the parsed header without its metadata; None if it is not of the format."""
    try:
        raw = msgspec.json.decode(header, type=dict[str, msgspec.Raw])
        metadata = raw.pop("__metadata__", None)
        if metadata is not None:
            msgspec.json.decode(metadata, type=dict[str, str])
        return {name: msgspec.json.decode(value, type=_Entry) for name, value in raw.items()}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _weight_map(index: Path) -> dict[str, str]:
    """Return the file of each weight by an index."""
    weight_map = read_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelError(f"{str(index.parent)!r}: {INDEX} has no weight_map; {AGAIN}")
    for name in weight_map.values():
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise ModelError(
                f"{str(index.parent)!r}: {INDEX} names {shown(name)}, which is not a safetensors file of the "
                f"folder; {AGAIN}"
            )
    return weight_map


def weight_files(folder: Path, promised: Mapping[str, str]) -> list[str]:
    """Return the names of the files of weights to read, given the file of each weight by the index, if there is one.

    Raises ModelError.
    """
    # Hidden ones, such as the "._" files of macOS, are read by neither.
    present = sorted(path.name for path in folder.glob("*.safetensors") if not path.name.startswith("."))
    where = repr(str(folder))
    convert = conversion(folder)
    if promised:
        named = sorted(set(promised.values()))
        missing = [name for name in named if name not in present]
        if missing:
            count = f"{len(missing)} of the {len(named)} files of its weights"
            raise ModelError(f"{where} lacks {missing[0]} ({count} are missing); {AGAIN}")
        if SINGLE in present and SINGLE not in named:
            raise ModelError(
                f"{where} holds its weights twice, as {SINGLE} and as the files that {INDEX} names; remove one of them"
            )
        return named
    if SINGLE in present:
        others = [name for name in present if name != SINGLE]
        if others:
            raise ModelError(
                f"{where}: {others[0]} lies beside {SINGLE}, and the rollout workers would read both; move it to "
                "another folder"
            )
        return [SINGLE]
    if convert is not None:
        raise ModelError(f"{where} holds no safetensors weights of the model, the only format that is read; {convert}")
    if len(present) > 1:
        raise ModelError(f"{where} lacks {INDEX}, which names the files of its weights; {AGAIN}")
    if present:
        raise ModelError(
            f"{where} lacks {SINGLE}; if {present[0]} holds all weights of the model, rename it, or {AGAIN}"
        )
    raise ModelError(f"{where} holds no weights (*.safetensors); {AGAIN}")
