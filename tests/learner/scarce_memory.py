"""Run by test_memory.py in a process of its own: one step of a large batch, under a limit on the process's memory.

python scarce_memory.py MODEL CLIP EXTRA_MIB MICRO_BATCH_TOKENS
"""

import json
import resource
import sys

import psutil

from audio_qa.prompt import PromptTemplate
from audio_qa.question import Question
from learner.engine import leave
from learner.errors import BatchTooLargeError
from learner.phase import Counts, Phase
from learner.rank import LearnerRank
from learner.settings import LearnerSettings, OptimizerSettings
from protocol.training import TrainingCompletion, TrainingGroup

GROUPS, COMPLETIONS, LENGTH = 24, 8, 30


def main(model: str, clip: str, extra_mib: int, micro_batch_tokens: int) -> None:
    settings = LearnerSettings(threads=1, beta=0, micro_batch_tokens=micro_batch_tokens)
    rank = LearnerRank(0, 1, settings)
    rank.join("127.0.0.1", rank.address()[1])
    optimizer = OptimizerSettings(learning_rate=1e-2, schedule="constant", adam_epsilon=1e-2)
    rank.begin(model, Phase(optimizer, total_steps=2, max_tokens=LENGTH))
    question = Question("clips", 0, "0", clip, "What is heard?", ("one", "two"), "two")
    prompt = rank._encoded(question, PromptTemplate.ANSWER).token_ids
    completions = tuple(TrainingCompletion((20 + i,) * LENGTH, (-1.0,) * LENGTH, i - 3.5) for i in range(COMPLETIONS))
    group = TrainingGroup(question, PromptTemplate.ANSWER, prompt, completions, 0)
    count = GROUPS * COMPLETIONS
    # A small step first: what is allocated once is then there.
    rank.learn([group], Counts(COMPLETIONS, COMPLETIONS * LENGTH))
    if extra_mib:
        held = psutil.Process().memory_info().vms
        resource.setrlimit(resource.RLIMIT_AS, (held + extra_mib * 2**20, resource.RLIM_INFINITY))
    try:
        tally = rank.learn([group] * GROUPS, Counts(count, count * LENGTH))
        print(json.dumps({"micro_batches": tally.micro_batches, "cut": tally.cut_smaller, "norm": tally.grad_norm}))
    except BatchTooLargeError as error:
        print(json.dumps({"error": str(error), "tokens": error.tokens}))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        rank.engine.close()
        leave()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
