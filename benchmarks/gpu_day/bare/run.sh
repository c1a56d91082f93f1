#!/usr/bin/env bash
# Run the check with packages that were unpacked into a folder, from the repository's root:
#   benchmarks/gpu_day/bare/run.sh FOLDER [OPTIONS]
set -euo pipefail
packages=$1
shift
export PYTHONPATH="$PWD:$PWD/benchmarks/gpu_day/bare:$packages${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONUNBUFFERED=1
exec python3 -m benchmarks.gpu_day "$@"
