"""The kinds of events in a run's `events.jsonl`, each with its meaning and its fields.

Every line is `{"time": ISO 8601 in UTC, "kind": …, **fields}`. docs/reference/events.md is generated from this module.
A reader ignores kinds and fields it does not know.
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Self

PREEMPTION = "preemption"
"""Sender (`by`) of the commands that belong to a preemption: a later driver does not repeat them."""

_WORKER = "name of the rollout worker"
_VERSION = "weight version"
_STEP = "learner step"


class EventKind(StrEnum):
    """Kind of an event. `meaning` says when it is written, `fields` what it holds besides `time` and `kind`."""

    meaning: str
    fields: Mapping[str, str]

    def __new__(cls, value: str, meaning: str = "", fields: Mapping[str, str] = MappingProxyType({})) -> Self:
        member = str.__new__(cls, value)
        member._value_ = value
        member.meaning, member.fields = meaning, MappingProxyType(dict(fields))
        return member

    # The job and its drivers
    ATTEMPT = (
        "attempt",
        "A driver started under the service; everything until the next one is its own.",
        {"submission_id": "id of the driver's Ray job", "pid": "process id of the driver"},
    )
    STATE = (
        "state",
        "The job's state, as its driver reports it.",
        {
            "state": "`starting`, `running`, `paused`, `recovering`, `succeeded`, `failed` or `cancelled`",
            "restart": "with `recovering`: number of learner restarts so far",
            "cause": "with `recovering`: the learner's error",
        },
    )
    DATA = (
        "data",
        "The questions of the job were read.",
        {
            "train": "description of the training questions: format, counts, rejected ones by problem",
            "evaluation": "the same for the held-out questions",
            "curriculum": "with measured solve rates: `measured`, `questions`, `left_out`",
        },
    )
    RESUMED = (
        "resumed",
        "The job continues from a checkpoint; metrics and samples after it were removed.",
        {
            "step": "step of the checkpoint",
            "questions": "draws made up to there",
            "not_compared": "inputs whose digests were not recorded, or not found on this machine, if any",
            "earshot": "version of Earshot before, if it was another one",
        },
    )
    INPUTS_CHANGED = (
        "inputs_changed",
        "The job continues with other inputs than it began with, which `--accept-changes` allowed.",
        {
            "step": "step of the checkpoint from which it continues",
            "inputs": "of each changed input: its name as `input`, its digests as `was` and `now`, its `location`",
        },
    )
    ERROR = (
        "error",
        "An error ended the driver, or keeps it from reading commands.",
        {"error": "class of the error", "message": "its message, at most 4,000 characters"},
    )
    COMMAND = (
        "command",
        "A command from `commands.jsonl` was carried out: `scale` has set the target, `cancel` has begun; a `pause` or "
        "`checkpoint` is due after the current step, also over a restart of driver or learner.",
        {
            "id": "id of the command",
            "command": "`scale`, `pause`, `resume`, `checkpoint` or `cancel`",
            "count": "with `scale`: rollout workers requested; else null",
            "by": "sender; empty if unknown",
        },
    )
    COMMAND_FAILED = (
        "command_failed",
        "A command was not carried out, or a pause or checkpoint that was due did not come.",
        {"id": "id of the command", "command": "its kind, as above", "reason": "why, as a sentence"},
    )
    BAD_COMMAND = (
        "bad_command",
        "A line of `commands.jsonl` is not a command, and was ignored.",
        {"line": "its first 200 bytes", "problem": "why it is refused"},
    )
    TORN_LINE = (
        "torn_line",
        "A file's incomplete last line, left by a killed writer, was removed.",
        {"file": "name of the file", "bytes": "bytes removed"},
    )

    # Training and evaluation
    CHECKPOINT_TRIED = (
        "checkpoint_tried",
        "Before its first step the job wrote a whole checkpoint, read it again and removed it.",
        {"bytes": "size of the checkpoint", "seconds": "how long it took"},
    )
    CHECKPOINT = (
        "checkpoint",
        "A checkpoint was written.",
        {"step": _STEP, "path": "folder of the checkpoint", "commands": "ids of the commands that it answers"},
    )
    EVALUATION = (
        "evaluation",
        "The held-out questions were evaluated.",
        {
            "step": _STEP,
            "result": "`accuracy`, `silence_accuracy`, `shuffled_accuracy`, `chance_accuracy`, `count`, `failed`, "
            "`failed_reasons`, `failed_in_control`, `truncated_clips`, `length_mean`, `truncated_fraction`, "
            "`empty_fraction`, and the same by task, category, sub-category and difficulty",
        },
    )
    WARM_START = (
        "warm_start",
        "Progress of the warm start, every ten steps and after the last.",
        {"step": "warm-start step", "of": "warm-start steps in total", "loss": "loss of this step"},
    )
    SKIPPED_QUESTION = (
        "skipped_question",
        "A question was left out of a supervised step.",
        {"question": "key of the question", "reason": "`audio`: its clip cannot be read", "detail": "the error"},
    )
    FAILED_QUESTION = (
        "failed_question",
        "Nothing was learned from a draw because something failed, or a held-out question could not be asked.",
        {
            "step": _STEP,
            "question": "key of the question",
            "reason": "`audio` (the clip cannot be read), `prompt_too_long`, `nonfinite` (its log-probabilities or the "
            "update were not finite), `retries` (every attempt failed), `reward` (fewer than two completions could be "
            "scored), or `truncated` (every completion was truncated)",
            "detail": "the error",
            "evaluation": "true for a held-out question of an evaluation; else absent",
            "control": "with `evaluation`: `silence` or `shuffled` if it failed in that control only, else null",
        },
    )
    TRUNCATED_CLIP = (
        "truncated_clip",
        "A clip was longer than the model hears, and was truncated.",
        {
            "step": _STEP,
            "question": "key of the question",
            "seconds": "seconds removed",
            "evaluation": "true for a held-out question of an evaluation; else absent",
        },
    )
    NONFINITE_UPDATE = (
        "nonfinite_update",
        "An update was not made because a loss or a gradient was not finite.",
        {"step": _STEP, "in_row": "consecutive steps with such an update"},
    )
    BATCH_CUT_SMALLER = (
        "batch_cut_smaller",
        "A batch did not fit into the learner's memory and was split into smaller micro-batches.",
        {
            "step": "learner step; absent where the learner had to be restarted",
            "micro_batches": "micro-batches of that step",
            "micro_batch_tokens": "after a restart: the new limit of a micro-batch, in tokens",
        },
    )
    UNSCORED = (
        "unscored",
        "Some completions of a batch could not be scored.",
        {"completions": "how many", "of": "completions of the batch", "causes": "the most common errors"},
    )
    REWARD_RESTARTED = (
        "reward_restarted",
        "The reward actor died and was replaced.",
        {"restart": "number of restarts so far", "cause": "the error"},
    )

    # Rollout workers
    ROOM_PENDING = (
        "room_pending",
        "The learner's ranks or the reward actor wait for resources of the cluster, which rollout workers give up.",
        {"part": "`learner` or `reward`", "needs": "the resources in words", "seconds": "seconds waited so far"},
    )
    LEARNER_PLACED = ("learner_placed", "The learner has its room on the cluster.", {"nodes": "id of each rank's node"})
    SCALED = (
        "scaled",
        "The target number of rollout workers changed.",
        {"before": "target before", "target": "target now", "reason": "who or what changed it"},
    )
    WORKER_PENDING = (
        "worker_pending",
        "A worker is waiting for resources of the cluster.",
        {"worker": _WORKER, "seconds": "seconds waited so far"},
    )
    WORKER_STARTED = (
        "worker_started",
        "A worker serves.",
        {"worker": _WORKER, "node": "id of its node", "pid": "its process id", "weight_version": "weights it serves"},
    )
    WORKER_WITHDRAWN = (
        "worker_withdrawn",
        "A worker gave up its room for the learner's ranks or the reward actor; it is requested again afterwards.",
        {"worker": _WORKER, "state": "what it was doing", "requeued": "requests queued again"},
    )
    WORKER_DRAINING = (
        "worker_draining",
        "A worker leaves: it finishes its requests and takes no new ones.",
        {"worker": _WORKER, "requests": "requests left"},
    )
    WORKER_DRAINED = (
        "worker_drained",
        "A leaving worker has no requests left.",
        {"worker": _WORKER, "handed_back": "requests that others answer instead, after the drain deadline"},
    )
    WORKER_LEFT = ("worker_left", "A worker left the pool.", {"worker": _WORKER})
    WORKER_LOST = (
        "worker_lost",
        "A worker died, hung or failed; its requests were queued again.",
        {
            "worker": _WORKER,
            "node": "id of its node",
            "pid": "its process id",
            "cause": "the error",
            "requeued": "requests queued again",
        },
    )
    WORKER_RESTART = (
        "worker_restart",
        "A lost worker is about to be replaced.",
        {"worker": _WORKER, "restart": "restarts of all workers so far", "seconds": "pause before it"},
    )
    WORKER_KILLED = (
        "worker_killed",
        "A worker did not stop by itself and was killed.",
        {"worker": _WORKER, "cause": "the error"},
    )
    ROLLOUT_ATTEMPT_FAILED = (
        "rollout_attempt_failed",
        "A worker could not answer a request.",
        {
            "worker": _WORKER,
            "question": "key of the first question",
            "requests": "requests without an answer",
            "attempt": "failed attempts so far",
            "cause": "the error",
        },
    )

    # Weights
    UPDATE_LATE = (
        "update_late",
        "Some workers did not confirm a weight update in time.",
        {"version": _VERSION, "workers": "their names"},
    )
    UPDATE_FAILED = (
        "update_failed",
        "A weight update failed on a worker, which is replaced.",
        {"worker": _WORKER, "version": _VERSION, "cause": "the error"},
    )
    WEIGHTS_UNAVAILABLE = (
        "weights_unavailable",
        "Published weights could not be fetched; the learner is asked to publish them again.",
        {"worker": "name of the rollout worker, if the failure was on one", "version": _VERSION, "cause": "the error"},
    )

    # Copies of the run
    STORED = (
        "stored",
        "A checkpoint was copied to the storage.",
        {"step": _STEP, "url": "the run in the storage", "bytes": "bytes copied", "seconds": "seconds it took"},
    )
    STORAGE_FAILED = (
        "storage_failed",
        "The storage failed; the job continues and the copy is retried.",
        {"cause": "the error"},
    )
    STORAGE_RECOVERED = (
        "storage_recovered",
        "The storage works again.",
        {"failures": "failed attempts in a row"},
    )
    FETCHED = (
        "fetched",
        "The run directory was brought up to date from the storage.",
        {"step": "step of its newest checkpoint", "url": "the run in the storage", "removed": "steps removed here"},
    )
    TRACKER_FAILED = (
        "tracker_failed",
        "A tracker failed and is not used any more.",
        {"tracker": "`tensorboard`, `wandb`, `mlflow`, or `all` at the end", "cause": "the error"},
    )
