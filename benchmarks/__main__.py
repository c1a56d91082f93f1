"""`make bench`: all benchmarks, one behind the other."""

from benchmarks import demo_learns

BENCHMARKS = (demo_learns,)

if __name__ == "__main__":
    for benchmark in BENCHMARKS:
        benchmark.main()
