"""Names of the files and folders of a run directory.

Scripts read them by these names: a name that changes needs a reader for the old one. Names of checkpoints are in
`protocol.checkpoint`.
"""

JOB = "job.yaml"
"""The job file with every default filled in."""
INPUTS = "inputs.json"
"""Digests of the job's inputs, as `orchestrator.preflight.inputs` writes them before the job starts."""
METRICS = "metrics.jsonl"
"""One line per learner step."""
SAMPLES = "samples.jsonl"
"""One line per scored completion."""
EVALUATED = "evaluated.jsonl"
"""One line per completion of a held-out question, controls included."""
EVENTS = "events.jsonl"
"""One line per event (`orchestrator.run.events.EventKind`)."""
COMMANDS = "commands.jsonl"
"""One line per command sent to the running job (`orchestrator.run.commands`)."""
DRIVER_LOG = "driver.log"
"""stdout and stderr of the run's drivers under the service, each appended to the last."""
SUMMARY = "summary.json"
"""The final result."""
REPORT = "report.html"
EVALUATION = "evaluation.json"
"""The result of a job that only evaluates, with every answer."""
TENSORBOARD = "tensorboard"
"""Folder of TensorBoard's own files."""
