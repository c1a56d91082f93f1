"""Admission control: check that a job names nothing that the service may not use.

Invariant: an admitted job names no model, question file or clip outside the roots, and none of the service's own or of
another owner's jobs; no cache outside the folders for caches, no reward function, judge or environment variable outside
the allow-lists, no weights in a format that runs code when it is read, and no cluster or storage of its own. Its model
is whole. Files are read in processes of their own, with limits.
"""

import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from orchestrator.job.allowed import Allowed, Rule, check_names, is_built_in
from orchestrator.job.marked import marked_values, replace_marked
from orchestrator.job.memory.fit import check_memory
from orchestrator.job.memory.published import TINY_SIZES
from orchestrator.job.sections.model import TINY_MODELS
from orchestrator.job.spec import JobSpec
from orchestrator.job.spec_file import SpecError
from orchestrator.service.admission.checkers import Checkers
from orchestrator.service.admission.limits import CheckLimits
from orchestrator.service.admission.turns import AdmissionBusyError, Turns
from protocol.marks import Names, PathTo

__all__ = ["Admission", "AdmissionBusyError", "Admitted"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Admitted:
    """A job that may be queued."""

    spec: JobSpec
    """With its paths resolved."""
    uses: frozenset[str]
    """Ids of the jobs whose run directories it names."""


def _refuse_cluster(key: str, text: str, allowed: Allowed) -> None:
    raise SpecError(f"{key}: the service chooses the cluster; leave it out")


def _refuse_storage(key: str, text: str, allowed: Allowed) -> None:
    raise SpecError(f"{key}: the service chooses it (earshot serve --storage URL); leave it out")


OWN_RULES: Mapping[Names, Rule] = {Names.CLUSTER: _refuse_cluster, Names.STORAGE: _refuse_storage}
"""Rules for submitted jobs only: in a run directory the service has filled these fields in."""


class Admission:
    """The admission rules of one service."""

    def __init__(self, allowed: Allowed, limits: CheckLimits | None = None) -> None:
        """Start nothing yet.

        Args:
            allowed: what jobs may name, without the runs of anybody.
        """
        limits = limits or CheckLimits()
        self._allowed = allowed
        self._turns = Turns(
            over_all=limits.at_once,
            per_user=limits.at_once_per_user,
            waiting_per_user=limits.waiting_per_user,
            wait_seconds=limits.waiting_seconds,
        )
        self._checkers = Checkers(limits)

    def warm(self) -> None:
        """Start the first process that checks jobs, in the background."""
        self._checkers.warm()

    def close(self) -> None:
        """End the processes that check jobs."""
        self._checkers.close()

    @property
    def pids(self) -> list[int]:
        """Ids of the processes that check jobs."""
        return self._checkers.pids

    async def admit(
        self, spec: JobSpec, owns: Callable[[str], Awaitable[bool]], user: str = "", owner: str | None = None
    ) -> Admitted:
        """Return the job with its paths resolved.

        Args:
            owns: returns whether the submitter may see the job with an id, and so name its run directory.
            user: the submitter, of whose jobs only a few are checked at once.
            owner: the owner of the job, whose roots count; default: the submitter.

        Raises:
            SpecError: one line that names what is not allowed, or what does not fit the job's GPUs.
            AdmissionBusyError: too many jobs are being checked.
        """
        allowed = self._allowed.of_owner(user if owner is None else owner)
        check_names(spec, allowed, OWN_RULES)
        if spec.model.path in TINY_MODELS:
            check_memory(spec, TINY_SIZES)
        if all(is_built_in(path) for _, path in marked_values(spec, tuple(PathTo))):
            return Admitted(spec, frozenset())
        request = json.dumps({"spec": spec.model_dump(mode="json"), "allowed": allowed.dump()}).encode()
        async with self._turns.turn(user):
            outcome = await self._checkers.check(request, owns)
        if "failed" in outcome:
            _log.error("a job could not be checked: %s", outcome["failed"])
        if "refused" in outcome:
            raise SpecError(outcome["refused"])
        paths: dict[str, str] = outcome["paths"]
        resolved = replace_marked(spec, tuple(PathTo), lambda key, _: paths[key])
        return Admitted(resolved, frozenset(outcome["uses"]))
