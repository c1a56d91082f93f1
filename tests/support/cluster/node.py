"""Nodes that join a running Ray and are lost again, each a `ray start` of its own."""

import asyncio
import contextlib
import json
import subprocess
import sys
from pathlib import Path

import psutil
import ray


class Node:
    """Another machine of the cluster, with the given resources beside its CPUs. Its GPUs exist for Ray only."""

    def __init__(self, *, cpus: int = 1, gpus: int = 0, **resources: float) -> None:
        self._cpus, self._gpus, self._resources = cpus, gpus, resources
        self._start()

    def _start(self) -> None:
        command = [Path(sys.executable).with_name("ray"), "start", "--block"]
        counted = [f"--num-cpus={self._cpus}", f"--num-gpus={self._gpus}"]
        options = [*counted, "--object-store-memory=80000000", f"--resources={json.dumps(self._resources)}"]
        address = ray.get_runtime_context().gcs_address
        self._process = subprocess.Popen(
            [*command, f"--address={address}", *options, "--disable-usage-stats"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    async def joined(self, nodes: int) -> None:
        """Return once the cluster has `nodes` nodes. Ray ends a node whose agent is slow to start: it is started
        again."""
        async with asyncio.timeout(200):
            while alive() < nodes:
                if self._process.poll() is not None:
                    self._start()
                await asyncio.sleep(0.2)

    @property
    def runs(self) -> bool:
        """True until it is lost."""
        return self._process.poll() is None

    def leave(self) -> None:
        """Have it leave in order, which Ray notices at once."""
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self.lose()

    def lose(self) -> None:
        """Kill all its processes at once."""
        family = [psutil.Process(self._process.pid), *psutil.Process(self._process.pid).children(recursive=True)]
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()


def alive() -> int:
    """Return the number of nodes that Ray takes for alive."""
    return sum(node["Alive"] for node in ray.nodes())
