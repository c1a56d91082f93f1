"""`make bench`: all benchmarks that need no GPU, one behind the other; a missed bound does not stop the rest."""

from benchmarks import (
    async_speedup,
    demo_learns,
    learner_limit,
    learner_shared_prefix,
    learner_vs_trl,
    pool_scale,
    reproduce_tiny,
    rollout_efficiency,
    service_load,
    weight_sync,
)

BENCHMARKS = (
    learner_limit,
    learner_shared_prefix,
    learner_vs_trl,
    rollout_efficiency,
    weight_sync,
    pool_scale,
    async_speedup,
    demo_learns,
    reproduce_tiny,
    service_load,
)

if __name__ == "__main__":
    missed = []
    for benchmark in BENCHMARKS:
        try:
            benchmark.main()
        except SystemExit as end:
            if not end.code:
                continue
            missed.append(f"{benchmark.__name__}: {end.code}" if isinstance(end.code, str) else benchmark.__name__)
    if missed:
        raise SystemExit(f"bounds that were not held, or benchmarks that failed: {', '.join(missed)}")
