"""The workers that may be given work, by how much they have: who is next costs the same for one and for hundreds."""

from collections.abc import Iterator

from rollout_workers.pool.member import Member


class Roster:
    """Members at their load; among equals, the one that was put in first."""

    def __init__(self) -> None:
        self._at: dict[int, dict[Member, None]] = {}
        self._load: dict[Member, int] = {}

    def __contains__(self, member: Member) -> bool:
        return member in self._load

    def __len__(self) -> int:
        return len(self._load)

    def __iter__(self) -> Iterator[Member]:
        return iter(tuple(self._load))

    def put(self, member: Member) -> None:
        """Put a member in, or at the place of its load now."""
        self.remove(member)
        self._load[member] = member.load
        self._at.setdefault(member.load, {})[member] = None

    def remove(self, member: Member) -> None:
        load = self._load.pop(member, None)
        if load is not None:
            del self._at[load][member]
            if not self._at[load]:
                del self._at[load]

    def least_loaded(self) -> Member | None:
        """Loads are few, whatever the number of members: multiples of a group up to what an engine takes."""
        return next(iter(self._at[min(self._at)])) if self._at else None
