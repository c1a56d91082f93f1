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
    """The manufacturer's specification of a GPU."""

    memory_gib: float
    operations_per_second: float
    """Throughput of dense bfloat16 matrix products."""
    bytes_per_second: float
    """Memory bandwidth."""


DATA_SHEETS = {
    Gpu.A100: DataSheet(80, 312e12, 2.04e12),
    Gpu.H100: DataSheet(80, 989e12, 3.35e12),
    Gpu.H200: DataSheet(141, 989e12, 4.8e12),
    Gpu.L40S: DataSheet(48, 362e12, 0.864e12),
}
