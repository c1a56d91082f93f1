"""`earshot run` with learner ranks that are killed at given points: python faulty_job.py FAULTS.json run JOB …

FAULTS.json is a list of {"point": …, "learn_calls": n}: in the n-th batch that a rank's process learns from, at that
point, the process kills itself with SIGKILL. Each fault happens once, in sequence.
"""

import json
import os
import signal
import sys
from pathlib import Path

import learner.group
from learner.actor import LearnerActor


class FaultyLearnerActor(LearnerActor):
    """A learner actor that Ray pickles by value, since it is defined in `__main__`."""

    faults = Path(sys.argv[1])

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.learn_calls = 0
        import torch

        import learner.checkpoint.checkpoint
        import learner.model.policy
        import learner.weight_sync.shared_memory

        def wrap(module, name, around):
            inner = getattr(module, name)
            setattr(module, name, lambda *a, **k: around(inner, *a, **k))

        def forward(inner, head, hidden, *a, **k):
            self.at("forward")
            if hidden.requires_grad:
                hidden.register_hook(lambda gradient: self.at("backward"))
            return inner(head, hidden, *a, **k)

        def step(inner, *a, **k):
            result = inner(*a, **k)
            self.at("step")
            return result

        def save(inner, path, tensors, *a, **k):
            Path(path).write_bytes(b"the beginning of a file")
            self.at("save")
            return inner(path, tensors, *a, **k)

        def publish(inner, file, placed):
            if placed.offset > 0:  # not the first weight
                self.at("publish")
            return inner(file, placed)

        wrap(learner.model.policy, "score_tokens", forward)
        wrap(torch.optim.AdamW, "step", step)
        wrap(learner.checkpoint.checkpoint, "write_tensors", save)
        wrap(learner.weight_sync.shared_memory._File, "tensor", publish)

    def call(self, method, *arguments):
        self.learn_calls += method == "learn"
        return super().call(method, *arguments)

    def at(self, point):
        done = self.faults.with_suffix(".done")
        happened = done.read_text().split() if done.exists() else []
        faults = json.loads(self.faults.read_text())
        if len(happened) == len(faults):
            return
        fault = faults[len(happened)]
        if fault["point"] == point and fault["learn_calls"] == self.learn_calls:
            done.write_text(" ".join([*happened, point]))
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    learner.group.LearnerActor = FaultyLearnerActor
    from orchestrator.cli.main import main

    sys.argv = ["earshot", *sys.argv[2:]]
    main()
