"""Model folders that are not whole, as found in practice. Each function breaks one and returns what is said."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from support.models.folders import config_of, shapes_of, write_json, write_shards, write_weights

from audio_qa.model_folder.weights import INDEX

SINGLE = "model.safetensors"
POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 3945441440\n"
AGAIN = "download the folder again"
Broken = Callable[[Path], list[str]]

BROKEN: dict[str, Broken] = {}


def kind(function: Broken) -> Broken:
    BROKEN[function.__name__] = function
    return function


def pointer(name: str) -> None:
    def broken(folder: Path) -> list[str]:
        (folder / name).write_text(POINTER)
        return [name, "Git LFS", "git lfs pull"]

    BROKEN[f"pointer_{name}"] = broken


for _name in (SINGLE, "tokenizer.json", "config.json", "preprocessor_config.json", "merges.txt", "chat_template.jinja"):
    pointer(_name)


@kind
def pointers_for_all_shards(folder: Path) -> list[str]:
    sharded(folder)
    for path in folder.glob("*.safetensors"):
        path.write_text(POINTER)
    return ["model-00001-of-00003.safetensors", "2 more", "git lfs pull"]


def sharded(folder: Path) -> dict[str, str]:
    (folder / SINGLE).unlink()
    return write_shards(folder, shapes_of(config_of("qwen2_audio")), 3)


def weights(content: Callable[[bytes], bytes], says: str) -> Broken:
    def broken(folder: Path) -> list[str]:
        (folder / SINGLE).write_bytes(content((folder / SINGLE).read_bytes()))
        return [SINGLE, says, AGAIN]

    return broken


def header(change: Callable[[dict], None]) -> Callable[[bytes], bytes]:
    """Return how to change the parsed header of a file."""

    def changed(content: bytes) -> bytes:
        length = int.from_bytes(content[:8], "little")
        parsed = json.loads(content[8 : 8 + length])
        change(parsed)
        text = json.dumps(parsed).encode()
        return len(text).to_bytes(8, "little") + text + content[8 + length :]

    return changed


CONV = "audio_tower.conv1.bias"
BROKEN |= {
    "empty_weights": weights(lambda _: b"", "is empty"),
    "weights_of_3_bytes": weights(lambda content: content[:3], "is cut"),
    "weights_without_header": weights(lambda content: content[:8], "is cut within its header"),
    "header_cut": weights(lambda content: content[:200], "is cut within its header"),
    "absurd_header_length": weights(lambda content: b"\xff" * 8 + content[8:], "is not a safetensors file"),
    "a_page_of_html": weights(lambda _: b"<!doctype html><html>Access denied</html>", "is not a safetensors file"),
    "header_no_json": weights(lambda content: content[:8] + b"[" + content[9:], "damaged header"),
    "header_of_zeros": weights(lambda content: content[:8] + b"\0" * (len(content) - 8), "damaged header"),
    "header_without_weights": weights(lambda _: (2).to_bytes(8, "little") + b"{}", "holds no weights"),
    "part_of_the_data": weights(lambda content: content[:-999], "is cut: it has"),
    "one_byte_missing": weights(lambda content: content[:-1], "is cut: it has"),
    "one_byte_too_many": weights(lambda content: content + b"\0", "is too long: it has"),
    "gap_in_the_data": weights(header(lambda h: h.pop(CONV)), "damaged header"),
    "wrong_shape_for_its_bytes": weights(header(lambda h: h[CONV].update(shape=[7])), "damaged header"),
    "negative_shape": weights(header(lambda h: h[CONV].update(shape=[-6])), "damaged header"),
    "unknown_dtype": weights(header(lambda h: h[CONV].update(dtype="float16")), "damaged header"),
}


@kind
def shard_missing(folder: Path) -> list[str]:
    sharded(folder)
    (folder / "model-00002-of-00003.safetensors").unlink()
    return ["lacks model-00002-of-00003.safetensors", AGAIN]


@kind
def index_without_metadata(folder: Path) -> list[str]:
    write_json(folder / INDEX, {"weight_map": sharded(folder)})
    return [INDEX, "has no metadata", 'add "metadata": {}']


@kind
def broken_link_in_place_of_a_shard(folder: Path) -> list[str]:
    sharded(folder)
    path = folder / "model-00002-of-00003.safetensors"
    path.unlink()
    path.symlink_to("../blobs/0123")
    return [path.name, "a file that does not exist", AGAIN]


@kind
def index_missing(folder: Path) -> list[str]:
    sharded(folder)
    (folder / INDEX).unlink()
    return [f"lacks {INDEX}", AGAIN]


@kind
def index_names_weights_that_no_file_holds(folder: Path) -> list[str]:
    weight_map = sharded(folder)
    write_json(folder / INDEX, {"weight_map": weight_map | {"extra.weight": "model-00001-of-00003.safetensors"}})
    return ["extra.weight", "model-00001-of-00003.safetensors", AGAIN]


@kind
def weight_in_two_shards(folder: Path) -> list[str]:
    weight_map = sharded(folder)
    write_weights(folder / "model-00003-of-00003.safetensors", {name: [8] for name in list(weight_map)[:2]})
    return ["both model-00001", "model-00003-of-00003.safetensors", AGAIN]


def index(text: str, says: str) -> Broken:
    def broken(folder: Path) -> list[str]:
        sharded(folder)
        (folder / INDEX).write_text(text)
        return [INDEX, says, AGAIN]

    return broken


BROKEN |= {
    "index_cut": index('{"weight_map": {"a', "not valid JSON"),
    "index_empty": index("", "it is empty"),
    "index_a_list": index("[]", "JSON object"),
    "index_without_map": index("{}", "no weight_map"),
    "index_leads_elsewhere": index('{"weight_map": {"a": "../model.safetensors"}}', "not a safetensors file"),
    "index_names_pickled_files": index('{"weight_map": {"a": "pytorch_model.bin"}}', "not a safetensors file"),
}


@kind
def weights_twice(folder: Path) -> list[str]:
    write_shards(folder, shapes_of(config_of("qwen2_audio")), 3)
    return ["twice", SINGLE, "remove one"]


@kind
def copy_beside_the_weights(folder: Path) -> list[str]:
    shutil.copy(folder / SINGLE, folder / "consolidated.safetensors")
    return ["consolidated.safetensors", "move it"]


@kind
def pickled_weights_only(folder: Path) -> list[str]:
    (folder / SINGLE).rename(folder / "pytorch_model.bin")
    return ["pytorch_model.bin", "python -m learner.model.convert '"]


@kind
def pickled_weights_with_a_dummy(folder: Path) -> list[str]:
    (folder / SINGLE).rename(folder / "pytorch_model-00001-of-00002.bin")
    write_weights(folder / "dummy.safetensors", {"x": [1]})
    return ["pytorch_model-00001-of-00002.bin", "python -m learner.model.convert '"]


@kind
def pickled_weights_with_a_dummy_of_the_right_name(folder: Path) -> list[str]:
    (folder / SINGLE).rename(folder / "pytorch_model.bin")
    write_weights(folder / SINGLE, {"x": [1]})
    return ["lack", "embed_tokens", "python -m learner.model.convert '"]


@kind
def training_arguments_only(folder: Path) -> list[str]:
    for name in ("training_args.bin", "optimizer.bin"):
        shutil.copy(folder / SINGLE, folder / name)
    (folder / SINGLE).unlink()
    return ["no weights", AGAIN]


@kind
def unrelated_weights(folder: Path) -> list[str]:
    (folder / SINGLE).rename(folder / "weights.safetensors")
    return [f"lacks {SINGLE}", "weights.safetensors", "rename"]


@kind
def adapter_only(folder: Path) -> list[str]:
    (folder / SINGLE).rename(folder / "adapter_model.safetensors")
    write_json(folder / "adapter_config.json", {"base_model_name_or_path": "Qwen/Qwen2-Audio-7B"})
    return ["adapter", "merge"]


@kind
def adapter_beside_the_weights(folder: Path) -> list[str]:
    """transformers would add it to the model in the learner, vLLM would not."""
    write_json(folder / "adapter_config.json", {"base_model_name_or_path": "Qwen/Qwen2-Audio-7B"})
    return ["adapter_config.json", "merge", "remove"]
