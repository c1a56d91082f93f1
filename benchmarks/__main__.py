"""`make bench`: all benchmarks that need no GPU, one behind the other."""

from benchmarks import (
    async_speedup,
    demo_learns,
    learner_limit,
    learner_shared_prefix,
    learner_vs_trl,
    pool_scale,
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
    service_load,
)

if __name__ == "__main__":
    for benchmark in BENCHMARKS:
        benchmark.main()
