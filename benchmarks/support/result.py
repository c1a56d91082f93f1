"""The result of a benchmark."""

import json
import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

RESULTS = Path(__file__).parents[1] / "results"


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of one benchmark."""

    name: str
    value: float
    """The headline figure."""
    unit: str
    better: Literal["higher", "lower"]
    details: dict[str, Any]

    def publish(self) -> None:
        """Write results/NAME.json and print the same object as the last line of stdout."""
        machine = {"cores": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}
        document = {**asdict(self), "measured_on": machine}
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{self.name}.json").write_text(json.dumps(document, indent=2) + "\n")
        print(json.dumps(document), flush=True)
