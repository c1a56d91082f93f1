"""`make bench`: run all benchmarks that need no GPU sequentially. A failed bound does not stop the others."""

from benchmarks import (
    async_speedup,
    demo_learns,
    learner_limit,
    learner_shared_prefix,
    learner_vs_trl,
    long_queue,
    pool_scale,
    reproduce_tiny,
    rollout_efficiency,
    service_load,
    weight_sync,
)
from benchmarks.dry_run import __main__ as dry_run
from benchmarks.service_hostile import __main__ as service_hostile

BENCHMARKS = (
    learner_limit,
    learner_shared_prefix,
    learner_vs_trl,
    rollout_efficiency,
    weight_sync,
    pool_scale,
    async_speedup,
    dry_run,
    demo_learns,
    reproduce_tiny,
    service_load,
    service_hostile,
    long_queue,
)

if __name__ == "__main__":
    failed = []
    for benchmark in BENCHMARKS:
        try:
            benchmark.main()
        except SystemExit as end:
            if not end.code:
                continue
            failed.append(f"{benchmark.__name__}: {end.code}" if isinstance(end.code, str) else benchmark.__name__)
    if failed:
        raise SystemExit(f"failed benchmarks: {', '.join(failed)}")
