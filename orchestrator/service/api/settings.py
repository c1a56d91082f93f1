"""Settings of the API, given when the service starts."""

from dataclasses import dataclass
from pathlib import Path

from orchestrator.places import cache_directory


@dataclass(frozen=True, slots=True)
class ApiSettings:
    """The defaults suit a service on a personal machine."""

    local: bool = True
    """The service listens on loopback only: local requests without a token come from the admin `local`."""
    roots: tuple[Path, ...] = (Path.home(),)
    """Folders that may contain the models, questions and clips of jobs. Built-in ones are always allowed."""
    data_dir: Path | None = None
    """Data directory of the service. Jobs may name only run directories of their owner in it."""
    reward_modules: tuple[str, ...] = ()
    """Modules and packages whose functions jobs may use as rewards."""
    judge_hosts: tuple[str, ...] = ()
    """Endpoints that jobs may use as judges: HOST:PORT, or HOST for all ports."""
    judge_keys: tuple[str, ...] = ()
    """Environment variables whose values jobs may send to judges as API keys."""
    max_body_bytes: int = 1024 * 1024
    max_yaml_bytes: int = 64 * 1024
    """Lower than for JSON, because YAML takes much longer to parse."""
    max_depth: int = 32
    """Maximum nesting of JSON and YAML."""
    requests_per_second: float = 1000
    """Sustained rate for one user."""
    request_burst: int = 2000
    """Requests that a user may send at once after a pause."""
    refusals_per_second: float = 5
    """Sustained rate of requests without a valid token from one address; ten times as many at once."""
    max_streams: int = 2000
    """Open streams of events and logs, over all users."""
    heartbeat_seconds: float = 15
    max_stream_seconds: float = 3600

    @property
    def readable(self) -> tuple[Path, ...]:
        """The roots, and the cache with the built-in models and data."""
        return (*self.roots, cache_directory())
