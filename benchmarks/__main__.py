"""`make bench`: all benchmarks that need no GPU, one behind the other."""

from benchmarks import demo_learns, learner_limit, learner_shared_prefix, learner_vs_trl, service_load

BENCHMARKS = (learner_limit, learner_shared_prefix, learner_vs_trl, demo_learns, service_load)

if __name__ == "__main__":
    for benchmark in BENCHMARKS:
        benchmark.main()
