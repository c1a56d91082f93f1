"""Packages for a machine without a network: whole wheels in archives of bounded size, vLLM without other kernels."""

import os
import tarfile
import zipfile

import pytest

from benchmarks.gpu_day.pack import write_archives

_KIB = 1024


@pytest.fixture
def wheels(tmp_path):
    """Return a folder with a wheel of vLLM and another one; their contents cannot be compressed."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    contents = {
        "vllm-0.32.0-cp38-abi3-manylinux.whl": {
            "vllm/__init__.py": 1,
            "vllm/_C_stable_libtorch.abi3.so": 40,
            "vllm/_moe_C.abi3.so": 30,
            "vllm/vllm_flash_attn/_vllm_fa3_C.abi3.so": 20,
        },
        "msgspec-0.20-cp312-manylinux.whl": {"msgspec/_core.so": 10, "msgspec-0.20.dist-info/METADATA": 1},
    }
    for wheel, files in contents.items():
        with zipfile.ZipFile(folder / wheel, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, kib in files.items():
                archive.writestr(name, os.urandom(kib * _KIB))
    return folder


def test_archives_hold_what_is_needed_and_are_bounded(wheels, tmp_path):
    written = write_archives(wheels, tmp_path / "packed", 50 * _KIB)
    assert len(written) == 3
    assert all(file.stat().st_size < 53 * _KIB for file in written)
    names = []
    for file in written:
        with tarfile.open(file) as archive:
            names += archive.getnames()
            archive.extractall(tmp_path / "unpacked", filter="data")
    assert sorted(names) == [
        "msgspec-0.20.dist-info/METADATA",
        "msgspec/_core.so",
        "vllm/_C_stable_libtorch.abi3.so",
        "vllm/__init__.py",
        "vllm/vllm_flash_attn/_vllm_fa3_C.abi3.so",
    ]
    with zipfile.ZipFile(next(wheels.glob("vllm*"))) as archive:
        name = "vllm/_C_stable_libtorch.abi3.so"
        assert (tmp_path / "unpacked" / name).read_bytes() == archive.read(name)


def test_a_file_that_fits_no_archive_is_refused(wheels, tmp_path):
    with pytest.raises(ValueError, match=r"_C_stable_libtorch\.abi3\.so of vllm-0\.32\.0"):
        write_archives(wheels, tmp_path / "packed", 30 * _KIB)
