"""The GPUs that a plan can be made for, by their data sheets."""

from dataclasses import dataclass
from enum import StrEnum


class Gpu(StrEnum):
    """A kind of GPU."""

    A100 = "A100-80GB"
    H100 = "H100-80GB"
    H200 = "H200-141GB"
    L40S = "L40S-48GB"


@dataclass(frozen=True, slots=True)
class DataSheet:
    """What its maker states of a GPU."""

    memory_gib: float
    operations_per_second: float
    """Of dense matrix products in bfloat16."""
    bytes_per_second: float
    """Of its memory."""


DATA_SHEETS = {
    Gpu.A100: DataSheet(80, 312e12, 2.04e12),
    Gpu.H100: DataSheet(80, 989e12, 3.35e12),
    Gpu.H200: DataSheet(141, 989e12, 4.8e12),
    Gpu.L40S: DataSheet(48, 362e12, 0.864e12),
}
