"""The bundles of resources that parts of a job have on a cluster, and the nodes that bundles go to.

Invariant: on GPUs that learner and rollout workers share, bundle i is one GPU and holds rank i and one worker, never
two. Bundles with GPUs are on one node if a node has as many, used or not.

Ray gives parts of a GPU to whoever asks first, so that two workers may meet on one GPU and two ranks on another; a
bundle's GPU is for those that name the bundle.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from learner.group import CPUS_PER_RANK
from orchestrator.job.demand import (
    cpus_per_worker,
    gpus_per_rank,
    gpus_per_worker,
    on_one_node,
    ranks_of,
    shares_gpus,
)
from orchestrator.job.spec import JobSpec

Needs = Mapping[str, float]
"""Amounts of resources, by Ray's name."""


class Strategy(StrEnum):
    """Ray's strategy for the bundles of a placement group."""

    ONE_NODE = "STRICT_PACK"
    """All on one node; they wait for one with that much room."""
    FEW_NODES = "PACK"
    """On as few nodes as are free: Ray fills the emptiest node first, then the next one."""


@dataclass(frozen=True, slots=True)
class Bundles:
    """Resources for some actors. Actor i is in bundle i."""

    needs: tuple[Needs, ...]
    first_worker: int = 0
    """Bundle of the first rollout worker, if any have room here."""
    workers: int = 0
    """Number of rollout workers that have their room here, one in each bundle from `first_worker` on."""
    one_node: bool = False
    """They have to be on one node: they wait for one, also where no node is as large."""

    @property
    def total(self) -> Needs:
        """The sum of all bundles."""
        return {name: sum(bundle.get(name, 0) for bundle in self.needs) for name in _names(self.needs)}


def learner_bundles(spec: JobSpec) -> Bundles:
    """Return what the learner's ranks need, together with the rollout workers whose room is reserved with theirs."""
    ranks, rank = ranks_of(spec), _needs(CPUS_PER_RANK, gpus_per_rank(spec))
    worker = _needs(cpus_per_worker(spec), gpus_per_worker(spec))
    if shares_gpus(spec):
        both = {name: rank.get(name, 0) + worker.get(name, 0) for name in _names((rank, worker))}
        return Bundles((both,) * ranks, workers=ranks)
    if on_one_node(spec) and worker:
        workers = spec.rollout.workers
        return Bundles((rank,) * ranks + (worker,) * workers, first_worker=ranks, workers=workers, one_node=True)
    return Bundles((rank,) * ranks)


def strategy_for(bundles: Bundles, nodes: Sequence[Needs]) -> Strategy:
    """Return Ray's strategy for bundles on a cluster whose nodes have the given resources, used or not."""
    total = bundles.total
    # Processes on CPUs do not need one another's memory, and one actor more or less on a small node must not matter.
    fits = "GPU" in total and any(all(node.get(n, 0) >= amount for n, amount in total.items()) for node in nodes)
    return Strategy.ONE_NODE if fits or bundles.one_node else Strategy.FEW_NODES


def fit(bundles: Bundles, nodes: Sequence[Needs]) -> bool:
    """Return whether nodes with the given resources, used or not, have room for all bundles, if these are alike."""
    left = [dict(node) for node in nodes]
    for needs in bundles.needs:
        node = next((n for n in left if all(n.get(name, 0) >= amount for name, amount in needs.items())), None)
        if node is None:
            return False
        for name, amount in needs.items():
            node[name] -= amount
    return True


def bundle_for(slot: int, bundles: Bundles, occupied: Collection[int], last: int | None) -> int | None:
    """Return the bundle for the rollout worker of a slot; None if all are occupied, or there are none.

    Args:
        occupied: bundles of the other slots.
        last: bundle of the slot's previous worker, which its replacement gets if possible.
    """
    first = bundles.first_worker
    free = [bundle for bundle in range(first, first + bundles.workers) if bundle not in occupied]
    return next((bundle for bundle in (last, first + slot) if bundle in free), free[0] if free else None)


def described(bundles: Bundles, strategy: Strategy) -> str:
    """Return the resources in words, such as "4 GPUs and 4 CPUs on one node"."""
    amounts = sorted(bundles.total.items(), key=lambda item: item[0] != "GPU")
    text = " and ".join(f"{amount:g} {name}{'' if amount == 1 else 's'}" for name, amount in amounts)
    return f"{text} on one node" if strategy is Strategy.ONE_NODE and len(bundles.needs) > 1 else text


def _needs(cpus: float, gpus: float) -> Needs:
    return {name: amount for name, amount in (("CPU", cpus), ("GPU", gpus)) if amount}


def _names(needs: Sequence[Needs]) -> list[str]:
    return list(dict.fromkeys(name for bundle in needs for name in bundle))
