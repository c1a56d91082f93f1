"""`make bench`: all benchmarks, one behind the other."""

from benchmarks import demo_learns, learner_vs_trl

BENCHMARKS = (demo_learns, learner_vs_trl)

if __name__ == "__main__":
    for benchmark in BENCHMARKS:
        benchmark.main()
