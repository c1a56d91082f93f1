"""Parts of tensors equal the same parts of the whole ones, and files that are not whole are refused."""

import pytest
import torch
from safetensors.torch import save_file

from learner.checkpoint.slices import TensorSlices


@pytest.fixture
def saved(tmp_path):
    tensors = {
        "matrix": torch.arange(35, dtype=torch.float32).view(5, 7),
        "empty": torch.zeros(0, 3),
        "random/torch": torch.arange(11, dtype=torch.uint8),
        "number": torch.tensor(2.5),
    }
    save_file(tensors, tmp_path / "rank-0.safetensors", metadata={"format": "pt"})
    return tmp_path / "rank-0.safetensors", tensors


def test_every_part_of_every_tensor(saved):
    path, tensors = saved
    with TensorSlices(path) as file:
        assert file.shapes() == {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        for name, tensor in tensors.items():
            flat = tensor.flatten()
            assert torch.equal(file.read(name), flat)
            for start in range(flat.numel() + 1):
                for stop in range(start, flat.numel() + 1):
                    assert torch.equal(file.read(name, start, stop), flat[start:stop])


def test_a_part_is_a_copy_that_may_be_written_to(saved):
    path, tensors = saved
    with TensorSlices(path) as file:
        file.read("matrix", 3, 9).zero_()
        assert torch.equal(file.read("matrix"), tensors["matrix"].flatten())


@pytest.mark.parametrize("length", [0, 5, 40, -1])
def test_a_file_that_ends_too_early_is_refused(saved, length):
    path, _ = saved
    content = path.read_bytes()
    path.write_bytes(content[:length])
    with pytest.raises(ValueError, match=r"rank-0.safetensors: the file"):
        TensorSlices(path)
