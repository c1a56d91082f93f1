"""Benchmarks: each runs as `python -m benchmarks.NAME`, ends with one JSON object, and writes results/NAME.json."""
