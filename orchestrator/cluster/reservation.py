"""Room on the cluster that is reserved before the actors that use it are requested.

A request for an actor does not show whether it waits for room or for its process to start; a placement group of Ray
does, and all of its bundles are reserved together, so that no actor holds room while another one waits.
"""

import asyncio
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

from ray.util.placement_group import placement_group, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy


class ReservationState(StrEnum):
    """State of a reservation."""

    GRANTED = "granted"
    WAITING = "waiting"
    """Others use what is needed."""
    INFEASIBLE = "infeasible"
    """No node of the cluster has as much, used or not."""
    UNKNOWN = "unknown"
    """Ray's head does not answer."""


class Reservation:
    """Room for some actors. It is given back with `cancel`, and at the end of the job's driver."""

    def __init__(self, actors: Sequence[Mapping[str, float]]) -> None:
        """Request room for actors that need the given resources, on as few nodes as possible. Ray must be running."""
        self._group = placement_group([dict(needed) for needed in actors], strategy="PACK")

    async def state(self) -> ReservationState:
        """Return the current state."""
        # Ray answers within milliseconds, unless its head is away: the job's other tasks must not wait for that.
        try:
            table = await asyncio.to_thread(placement_group_table, self._group)
        except Exception:
            # Ray's errors for this have no class in common. Its head may come back.
            return ReservationState.UNKNOWN
        if table.get("state") == "CREATED":
            return ReservationState.GRANTED
        infeasible = table.get("stats", {}).get("scheduling_state") == "INFEASIBLE"
        return ReservationState.INFEASIBLE if infeasible else ReservationState.WAITING

    def place(self, number: int) -> Any:
        """Return Ray's scheduling strategy for the actor of a number."""
        return PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=number)

    def cancel(self) -> None:
        """Give the room back. Actors that are still in it are killed."""
        remove_placement_group(self._group)
