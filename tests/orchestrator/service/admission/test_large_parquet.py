"""A Parquet file that needs more memory than a check may take is refused for that, not for damage."""

from pathlib import Path

import pytest

from audio_qa.files.parquet import _readable


def test_a_lack_of_memory_is_no_damage() -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="Parquet needs the extra 'huggingface'")
    with pytest.raises(MemoryError), _readable(Path("train.parquet")):
        raise pyarrow.lib.ArrowMemoryError("malloc of size 400000064 failed")
