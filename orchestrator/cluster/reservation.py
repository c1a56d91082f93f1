"""Room on the cluster that is reserved before the actors that use it are requested.

A request for an actor does not show whether it waits for room or for its process to start; a placement group of Ray
does, and all of its bundles are reserved together, so that no actor holds room while another one waits. Ray removes a
group when its driver ends, however it ends.
"""

import asyncio
from enum import StrEnum
from typing import Any

import ray
from ray.util.placement_group import placement_group, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from orchestrator.cluster.placement import Bundles, Needs, Strategy, described, fit, strategy_for


class ReservationState(StrEnum):
    """State of a reservation."""

    GRANTED = "granted"
    WAITING = "waiting"
    """Others use what is needed."""
    INFEASIBLE = "infeasible"
    """The cluster does not have as much, used or not."""
    UNKNOWN = "unknown"
    """Ray's head does not answer."""


class Reservation:
    """Room for some actors. It is given back with `cancel`, and at the end of the job's driver."""

    def __init__(self, bundles: Bundles) -> None:
        """Request room. Ray must be running."""
        self.bundles = bundles
        self._request(strategy_for(bundles, _nodes()))

    @property
    def needs(self) -> str:
        """The room in words."""
        return described(self.bundles, self._strategy)

    async def state(self) -> ReservationState:
        """Return the current state. A request that waits is adapted to the nodes that the cluster has by then."""
        # Ray answers within milliseconds, unless its head is away: the job's other tasks must not wait for that.
        try:
            table, nodes = await asyncio.to_thread(lambda: (placement_group_table(self._group), _nodes()))
        except Exception:
            # Ray's errors for this have no class in common. Its head may come back.
            return ReservationState.UNKNOWN
        if table.get("state") == "CREATED":
            return ReservationState.GRANTED
        strategy = strategy_for(self.bundles, nodes)
        if strategy is not self._strategy and table.get("state") == "PENDING":
            self.cancel()
            self._request(strategy)
            return ReservationState.WAITING
        infeasible = table.get("stats", {}).get("scheduling_state") == "INFEASIBLE"
        # On more than one node, Ray only says that the bundles do not fit now, however many there are.
        return ReservationState.WAITING if fit(self.bundles, nodes) and not infeasible else ReservationState.INFEASIBLE

    async def nodes(self) -> list[str]:
        """Return the id of each bundle's node, for a room that is granted; nothing if Ray's head does not answer."""
        try:
            table = await asyncio.to_thread(placement_group_table, self._group)
        except Exception:
            return []
        return [node for _, node in sorted(table.get("bundles_to_node_id", {}).items())]

    def place(self, bundle: int) -> Any:
        """Return Ray's scheduling strategy for an actor in a bundle; call it once the room is granted."""
        return PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=bundle)

    def cancel(self) -> None:
        """Give the room back. Actors that are still in it are killed."""
        remove_placement_group(self._group)

    def _request(self, strategy: Strategy) -> None:
        self._strategy = strategy
        self._group = placement_group([dict(needs) for needs in self.bundles.needs], strategy=strategy.value)


def _nodes() -> list[Needs]:
    """Return the resources of each node of the cluster, used or not."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]
