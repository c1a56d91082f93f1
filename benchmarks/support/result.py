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
        self.publish_to(RESULTS / f"{self.name}.json")

    def publish_to(self, file: Path | None) -> None:
        """Write the result to a file, if one is named, and print the same object as the last line of stdout."""
        machine = {"cores": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}
        document = {**asdict(self), "measured_on": machine}
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(document, indent=2) + "\n")
        print(json.dumps(document), flush=True)
