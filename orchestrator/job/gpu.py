"""GPU types for which a plan can be made, with their data sheets."""

from dataclasses import dataclass
from enum import StrEnum


class Gpu(StrEnum):
    """A GPU type."""

    A100 = "A100-80GB"
    H100 = "H100-80GB"
    H200 = "H200-141GB"
    L40S = "L40S-48GB"


@dataclass(frozen=True, slots=True)
class DataSheet:
    """The manufacturer's specification of a GPU, and the memory that programs see."""

    memory_gib: float
    """The total that `cudaMemGetInfo` and torch report. It is less than nvidia-smi's figure: the driver keeps a part,
    and error correction another on GPUs with GDDR memory. The names of GPUs count in 10^9 or in 2^30 bytes."""
    operations_per_second: float
    """Throughput of dense bfloat16 matrix products."""
    bytes_per_second: float
    """Memory bandwidth."""


# nvidia-smi reports 80.0, 79.65, 140.4 and 44.99 GiB.
DATA_SHEETS = {
    Gpu.A100: DataSheet(79.1, 312e12, 2.04e12),
    Gpu.H100: DataSheet(79.1, 989e12, 3.35e12),
    Gpu.H200: DataSheet(139.7, 989e12, 4.8e12),
    Gpu.L40S: DataSheet(44.4, 362e12, 0.864e12),
}
