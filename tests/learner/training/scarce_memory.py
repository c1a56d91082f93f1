"""Run one step of a large batch under a memory limit; test_memory.py runs this in a separate process.

python scarce_memory.py MODEL CLIP LIMIT: the limit in bytes beyond the memory in use before the step. With 0 there is
no limit, and the memory of half of the batch and of the whole batch is measured.
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
from learner.messages import BatchCounts, PhaseSettings, StepStats
from learner.rank import LearnerRank
from learner.settings import LearnerSettings, OptimizerSettings
from learner.training.engine import shut_down
from protocol.training import TrainingCompletion, TrainingGroup

GROUPS, COMPLETIONS, LENGTH = 14, 8, 30


def in_use() -> int:
    """Return the size of this process's address space in bytes, which the limit applies to."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


class PeakMemory:
    """The peak address space during an action, by polling: the kernel's own peak would include loading the model."""

    def __init__(self) -> None:
        self._peak = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._done.wait(0.001):
            self._peak = max(self._peak, in_use())

    def during(self, action: Callable[[], object]) -> int:
        self._peak = 0
        action()
        return self._peak

    def close(self) -> None:
        self._done.set()
        self._thread.join()


def main(model: str, clip: str, limit: int) -> None:
    settings = LearnerSettings(threads=1, beta=0, micro_batch_tokens=1_000_000)
    rank = LearnerRank(0, 1, settings)
    rank.join("127.0.0.1", rank.address()[1])
    # A step this small changes no parameter, so every step here has the same gradient.
    optimizer = OptimizerSettings(learning_rate=1e-20, schedule="constant")
    rank.start_phase(model, PhaseSettings(optimizer, total_steps=2, max_tokens=LENGTH))
    question = Question("clips", 0, "0", clip, "What is heard?", ("one", "two"), "two")
    prompt = rank._encoded(question, PromptTemplate.ANSWER).token_ids
    completions = tuple(TrainingCompletion((20 + i,) * LENGTH, (-1.0,) * LENGTH, i - 3.5) for i in range(COMPLETIONS))
    group = TrainingGroup(question, PromptTemplate.ANSWER, prompt, completions, 0)
    count = GROUPS * COMPLETIONS

    def learn() -> StepStats:
        return rank.learn([group] * GROUPS, BatchCounts(count, count * LENGTH))

    # A small step makes all one-time allocations.
    rank.learn([group], BatchCounts(COMPLETIONS, COMPLETIONS * LENGTH))
    found: dict[str, object] = {}
    if not limit:
        peak = PeakMemory()
        before = in_use()
        rank._trainer.micro_batch_tokens = (len(prompt) + COMPLETIONS * LENGTH) * GROUPS // 2
        found["half"] = peak.during(learn) - before
        rank._trainer.micro_batch_tokens = settings.micro_batch_tokens
        found["whole"] = peak.during(learn) - before
        peak.close()
    else:
        resource.setrlimit(resource.RLIMIT_AS, (in_use() + limit, resource.RLIM_INFINITY))
    try:
        stats = learn()
        found |= {"micro_batches": stats.micro_batches, "cut": stats.cut_smaller, "norm": stats.grad_norm}
    except BatchTooLargeError as error:
        found |= {"error": str(error), "tokens": error.tokens}
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        rank.engine.close()
        shut_down()
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
