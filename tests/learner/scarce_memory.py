"""Run by test_memory.py in a process of its own: one step of a large batch, under a limit on the process's memory.

python scarce_memory.py MODEL CLIP SHARE: the limit, in parts of what half of the batch takes; 0 for none.
"""

import json
import resource
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from audio_qa.prompt import PromptTemplate
from audio_qa.question import Question
from learner.engine import leave
from learner.errors import BatchTooLargeError
from learner.phase import Counts, Phase, Tally
from learner.rank import LearnerRank
from learner.settings import LearnerSettings, OptimizerSettings
from protocol.training import TrainingCompletion, TrainingGroup

GROUPS, COMPLETIONS, LENGTH = 14, 8, 30


def in_use() -> int:
    """The address space of this process, in bytes: what its limit is on."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def most_in_use(action: Callable[[], object]) -> int:
    """The most address space that there is while `action` runs; the kernel's own peak remembers loading the model."""
    seen, done = [in_use()], threading.Event()

    def watch() -> None:
        while not done.wait(0.001):
            seen.append(in_use())

    watcher = threading.Thread(target=watch)
    watcher.start()
    action()
    done.set()
    watcher.join()
    return max(seen)


def main(model: str, clip: str, share: float) -> None:
    settings = LearnerSettings(threads=1, beta=0, micro_batch_tokens=1_000_000)
    rank = LearnerRank(0, 1, settings)
    rank.join("127.0.0.1", rank.address()[1])
    optimizer = OptimizerSettings(learning_rate=1e-2, schedule="constant", adam_epsilon=1e-2)
    rank.begin(model, Phase(optimizer, total_steps=2, max_tokens=LENGTH))
    question = Question("clips", 0, "0", clip, "What is heard?", ("one", "two"), "two")
    prompt = rank._encoded(question, PromptTemplate.ANSWER).token_ids
    completions = tuple(TrainingCompletion((20 + i,) * LENGTH, (-1.0,) * LENGTH, i - 3.5) for i in range(COMPLETIONS))
    group = TrainingGroup(question, PromptTemplate.ANSWER, prompt, completions, 0)
    count = GROUPS * COMPLETIONS

    def learn() -> Tally:
        return rank.learn([group] * GROUPS, Counts(count, count * LENGTH))

    # What is allocated once is there behind a small step; then half of the batch shows what it takes.
    rank.learn([group], Counts(COMPLETIONS, COMPLETIONS * LENGTH))
    rank._trainer.micro_batch_tokens = (len(prompt) + COMPLETIONS * LENGTH) * GROUPS // 2
    before = in_use()
    half = most_in_use(learn) - before
    rank._trainer.micro_batch_tokens = settings.micro_batch_tokens
    if share:
        resource.setrlimit(resource.RLIMIT_AS, (before + int(share * half), resource.RLIM_INFINITY))
    try:
        tally = learn()
        print(json.dumps({"micro_batches": tally.micro_batches, "cut": tally.cut_smaller, "norm": tally.grad_norm}))
    except BatchTooLargeError as error:
        print(json.dumps({"error": str(error), "tokens": error.tokens}))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        rank.engine.close()
        leave()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
