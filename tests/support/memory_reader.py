"""A reader of announced weights that works like a rollout worker."""

import os

import torch

from protocol.announcement import Announcement, Reply, connect, described, receive, send_reply
from rollout_workers.engine.bucket import tensors
from rollout_workers.engine.segment import Mapper


class Reader:
    """A worker that holds the memory it reads until `release`."""

    def __init__(self, address: str, name: str = "reader") -> None:
        self.socket = connect(address, name)
        self.socket.settimeout(10)
        self._mapper = Mapper()
        self.announcement = Announcement(0, 0, (0, 0), audio_changed=False)

    def read(self) -> dict[str, torch.Tensor]:
        """Return views of the tensors of the next announcement."""
        received = receive(self.socket)
        assert received is not None
        self.announcement, descriptor = received
        try:
            self.placed = described(descriptor, self.announcement)
            places = [(p.slot.name, p.slot.dtype, list(p.slot.shape), p.offset) for p in self.placed]
            return dict(tensors(self._mapper, f"/proc/self/fd/{descriptor}", places))
        finally:
            os.close(descriptor)

    @property
    def digests(self) -> dict[str, str | None]:
        """Digest of each tensor's bytes in the last announcement."""
        return {p.slot.name: p.slot.digest for p in self.placed}

    def release(self) -> None:
        send_reply(self.socket, Reply(self.announcement.number, holds=True))
