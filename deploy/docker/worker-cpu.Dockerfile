# A Ray node without a GPU: the head, where drivers run, or a worker. Also for `earshot run` alone.
#   docker build -f deploy/docker/worker-cpu.Dockerfile -t earshot/worker-cpu:0.1.0 .
# PYTHON_DIGEST=@sha256:… pins the base image by digest. All packages have the versions of requirements/cpu.lock.
ARG PYTHON_TAG=3.11.14-slim-bookworm
ARG PYTHON_DIGEST=

FROM python:${PYTHON_TAG}${PYTHON_DIGEST} AS build
ENV UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY requirements requirements
RUN pip install --no-deps "$(grep '^uv==' requirements/cpu.lock)" && uv venv --no-cache /opt/earshot
# CPU torch is not on PyPI.
ARG TORCH_CPU_INDEX=https://download.pytorch.org/whl/cpu
RUN uv pip install --no-cache --python /opt/earshot --no-deps --index-url "$TORCH_CPU_INDEX" \
    "$(grep '^torch==' requirements/cpu.lock)"
COPY pyproject.toml README.md ./
# The overrides omit packages that must not be installed with a CPU torch, as the lock does.
RUN uv pip install --no-cache --python /opt/earshot --constraint requirements/cpu.lock \
    --override requirements/overrides.txt --override requirements/overrides-trackers.txt \
    -r pyproject.toml --extra cpu --extra s3 --extra tracing --extra trackers
COPY audio_qa audio_qa
COPY protocol protocol
COPY rollout_workers rollout_workers
COPY reward reward
COPY learner learner
COPY orchestrator orchestrator
COPY examples examples
RUN uv pip install --no-cache --python /opt/earshot --no-deps .

FROM python:${PYTHON_TAG}${PYTHON_DIGEST}
LABEL org.opencontainers.image.title="Earshot: CPU worker"
# g++: vLLM and torch compile kernels at start-up. wget: used by KubeRay's probes.
RUN apt-get update && apt-get install --yes --no-install-recommends g++ wget && rm -rf /var/lib/apt/lists/*
# The same user id in all images, so that each can read what another writes to shared storage.
RUN groupadd --gid 10001 earshot && useradd --uid 10001 --gid earshot --create-home earshot \
    && install -d -o earshot -g earshot /data
COPY --from=build /opt/earshot /opt/earshot
# The login shell in which older KubeRay versions start Ray resets PATH, but keeps this folder.
RUN ln -s /opt/earshot/bin/ray /opt/earshot/bin/earshot /usr/local/bin/
ENV PATH=/opt/earshot/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 RAY_USAGE_STATS_ENABLED=0 \
    OMP_WAIT_POLICY=PASSIVE VLLM_NO_USAGE_STATS=1 EARSHOT_CACHE=/data/cache
# A node that ends accepts no new actors and waits this long for its actors to leave, which they do not: they are
# replaced after it has ended.
ENV RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=5
USER 10001:10001
WORKDIR /home/earshot
# Answered by Ray's agent on every node, without a token, on its default port.
HEALTHCHECK --interval=15s --timeout=5s --start-period=120s --retries=4 \
    CMD ["wget", "--quiet", "--timeout=4", "--tries=1", "--output-document=-", "http://127.0.0.1:52365/api/local_raylet_healthz"]
CMD ["earshot", "--help"]
