"""Settings of the API, given when the service starts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.job.allowed import Allowed
from orchestrator.places import cache_directory
from orchestrator.service.admission.limits import CheckLimits
from orchestrator.service.admission.private import private_files
from orchestrator.service.supervision.limits import Limits


@dataclass(frozen=True, slots=True)
class ApiSettings:
    """The defaults suit a service on a personal machine."""

    local: bool = True
    """The service listens on loopback only: requests without a token from a process of the user who started it come
    from the admin `local`."""
    require_token: bool = False
    """Every request needs a token, from the user who started the service too."""
    roots: tuple[Path, ...] = (Path.home(),)
    """Folders that may contain the models, questions and clips of jobs. Built-in ones are always allowed."""
    owner_roots: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    """Folders that only the jobs of one owner may read, by owner."""
    data_dir: Path | None = None
    """Data directory of the service. Jobs may name only run directories of their owner in it."""
    database: Path | None = None
    """File of the service's SQLite database; no job may name it."""
    cache_roots: tuple[Path, ...] = ()
    """Folders that may hold caches which jobs write to."""
    check_limits: CheckLimits = field(default_factory=CheckLimits)
    """Limits of the checks of submitted jobs."""
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
    """Sustained rate of requests with tokens that are not valid, from one address or user of this machine; ten times as
    many at once."""
    max_head_bytes: int = 64 * 1024
    """Request line and headers."""
    max_headers: int = 100
    head_seconds: float = 10
    """Longest time until the headers of a request are complete."""
    body_seconds: float = 30
    """Longest time from its headers until a request is complete."""
    max_connections: int = 4000
    """Open connections, streams included; fewer if the process may not open as many files."""
    max_connections_per_peer: int = 1000
    """Open connections of one address, of one IPv6 network, or of one user of this machine."""
    unread_seconds: float = 30
    """Longest time in which a client takes nothing of a response."""
    max_unread_bytes: int = 64 * 1024 * 1024
    """Sent to all clients and not taken by them; beyond it, connections with the most unread bytes are closed."""
    max_streams: int = 2000
    """Open streams of events and logs, over all users."""
    limits: Limits = field(default_factory=Limits)
    """Limits on jobs, which the supervisor enforces. These settings only show them, and the next three."""
    preemption: bool = False
    storage: bool = False
    keep_days: float = 0
    file_seconds: float = 15
    """Longest wait for the files of a run or for a clip."""
    heartbeat_seconds: float = 15
    max_stream_seconds: float = 3600

    @property
    def allowed(self) -> Allowed:
        """Return what jobs may name, besides the runs of their owner."""
        return Allowed(
            roots=tuple(map(str, self.roots)),
            owner_roots={owner: tuple(map(str, roots)) for owner, roots in self.owner_roots.items()},
            caches=tuple(map(str, self.cache_roots)),
            private=private_files(self.data_dir, self.database),
            reward_modules=self.reward_modules,
            judge_hosts=self.judge_hosts,
            judge_keys=self.judge_keys,
        )

    @property
    def readable(self) -> tuple[Path, ...]:
        """The roots, and the cache with the built-in models and data."""
        return (*self.roots, cache_directory())
