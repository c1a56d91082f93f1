"""Run by test_memory.py in a process of its own: one step of a large batch, under a limit on the process's memory.

python scarce_memory.py MODEL CLIP LIMIT: the limit in bytes beyond what there is before the step. With 0 there is none,
and what half of the batch and the whole of it take is measured.
"""

import json
import resource
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from audio_qa.prompt import PromptTemplate
from audio_qa.question import Question
from learner.errors import BatchTooLargeError
from learner.phase import Counts, Tally, TrainingPhase
from learner.rank import LearnerRank
from learner.settings import LearnerSettings, OptimizerSettings
from learner.training.engine import leave
from protocol.training import TrainingCompletion, TrainingGroup

GROUPS, COMPLETIONS, LENGTH = 14, 8, 30


def in_use() -> int:
    """The address space of this process, in bytes: what its limit is on."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


class Watch:
    """The most address space that there is while an action runs; the kernel's own peak remembers loading the model."""

    def __init__(self) -> None:
        self._most = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._done.wait(0.001):
            self._most = max(self._most, in_use())

    def most(self, action: Callable[[], object]) -> int:
        self._most = 0
        action()
        return self._most

    def close(self) -> None:
        self._done.set()
        self._thread.join()


def main(model: str, clip: str, limit: int) -> None:
    settings = LearnerSettings(threads=1, beta=0, micro_batch_tokens=1_000_000)
    rank = LearnerRank(0, 1, settings)
    rank.join("127.0.0.1", rank.address()[1])
    # So small a step changes no parameter: every step here has the same gradient.
    optimizer = OptimizerSettings(learning_rate=1e-20, schedule="constant")
    rank.begin(model, TrainingPhase(optimizer, total_steps=2, max_tokens=LENGTH))
    question = Question("clips", 0, "0", clip, "What is heard?", ("one", "two"), "two")
    prompt = rank._encoded(question, PromptTemplate.ANSWER).token_ids
    completions = tuple(TrainingCompletion((20 + i,) * LENGTH, (-1.0,) * LENGTH, i - 3.5) for i in range(COMPLETIONS))
    group = TrainingGroup(question, PromptTemplate.ANSWER, prompt, completions, 0)
    count = GROUPS * COMPLETIONS

    def learn() -> Tally:
        return rank.learn([group] * GROUPS, Counts(count, count * LENGTH))

    # What is allocated once is there behind a small step.
    rank.learn([group], Counts(COMPLETIONS, COMPLETIONS * LENGTH))
    found: dict[str, object] = {}
    if not limit:
        watch = Watch()
        before = in_use()
        rank._trainer.micro_batch_tokens = (len(prompt) + COMPLETIONS * LENGTH) * GROUPS // 2
        found["half"] = watch.most(learn) - before
        rank._trainer.micro_batch_tokens = settings.micro_batch_tokens
        found["whole"] = watch.most(learn) - before
        watch.close()
    else:
        resource.setrlimit(resource.RLIMIT_AS, (in_use() + limit, resource.RLIM_INFINITY))
    try:
        tally = learn()
        found |= {"micro_batches": tally.micro_batches, "cut": tally.cut_smaller, "norm": tally.grad_norm}
    except BatchTooLargeError as error:
        found |= {"error": str(error), "tokens": error.tokens}
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        rank.engine.close()
        leave()
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
