"""What whoever starts the service says of its API."""

from dataclasses import dataclass
from pathlib import Path

from orchestrator.places import cache_directory


@dataclass(frozen=True, slots=True)
class ApiSettings:
    """Defaults are those of a service on one's own machine."""

    local: bool = True
    """It listens on loopback only: who comes from this machine without a token is the local user, an admin."""
    roots: tuple[Path, ...] = (Path.home(),)
    """Folders under which models, questions and clips of jobs may lie; what is built in may always be used."""
    data_dir: Path | None = None
    """The service's own files: jobs may name run directories of their owner's there and nothing else."""
    reward_modules: tuple[str, ...] = ()
    """Modules and packages whose functions jobs may name as rewards."""
    judge_hosts: tuple[str, ...] = ()
    """HOST:PORT, or HOST for all its ports, of endpoints that jobs may have completions judged by."""
    judge_keys: tuple[str, ...] = ()
    """Environment variables whose content jobs may have sent to them as a key."""
    most_body_bytes: int = 1024 * 1024
    most_yaml_bytes: int = 64 * 1024
    """YAML takes much longer to read than JSON."""
    most_depth: int = 32
    """Of JSON and YAML."""
    requests_per_second: float = 1000
    """Of one user, in the long run."""
    request_burst: int = 2000
    """Requests that a user may make at once after being quiet."""
    refusals_per_second: float = 5
    """Of one address that comes without a valid token, in the long run; at once ten times as many."""
    most_streams: int = 2000
    """Open streams of events and logs, of all users."""
    heartbeat_seconds: float = 15
    longest_stream_seconds: float = 3600

    @property
    def readable(self) -> tuple[Path, ...]:
        """The roots and the cache, where what is built in lies."""
        return (*self.roots, cache_directory())
