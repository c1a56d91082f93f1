"""The resources that an actor has reserved, from Ray's names for them."""

import pytest

from orchestrator.cluster.ray_inventory import amount

GROUP = "0123456789abcdef0123456789ab01000000"


@pytest.mark.parametrize(
    ("required", "cpus", "gpus"),
    [
        ({}, 0, 0),
        ({"CPU": 2.0, "GPU": 0.5}, 2, 0.5),
        ({f"CPU_group_0_{GROUP}": 1.0, f"CPU_group_{GROUP}": 1.0, f"bundle_group_{GROUP}": 0.001}, 1, 0),
        ({f"CPU_group_{GROUP}": 1.0, f"GPU_group_{GROUP}": 2.0}, 1, 2),
        ({f"GPU_group_12_{GROUP}": 0.75, f"GPU_group_{GROUP}": 0.75, "memory": 1e9}, 0, 0.75),
    ],
)
def test_reserved_resources_are_counted_once(required: dict[str, float], cpus: float, gpus: float) -> None:
    assert (amount(required, "CPU"), amount(required, "GPU")) == (cpus, gpus)
