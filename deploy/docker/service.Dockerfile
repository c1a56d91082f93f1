# The service and the commands: no torch, no vLLM.
#   docker build -f deploy/docker/service.Dockerfile -t earshot/service:0.1.0 .
# PYTHON_DIGEST=@sha256:… pins the base image by digest. All packages have the versions of requirements/cpu.lock.
ARG PYTHON_TAG=3.11.14-slim-bookworm
ARG PYTHON_DIGEST=

FROM python:${PYTHON_TAG}${PYTHON_DIGEST} AS build
ENV UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY requirements/cpu.lock requirements/cpu.lock
RUN pip install --no-deps "$(grep '^uv==' requirements/cpu.lock)" && uv venv --no-cache /opt/earshot
COPY pyproject.toml README.md ./
# Before the code: if only the code changes, these layers come from the cache.
RUN uv pip install --no-cache --python /opt/earshot --constraint requirements/cpu.lock -r pyproject.toml --extra s3 --extra tracing
COPY audio_qa audio_qa
COPY protocol protocol
COPY rollout_workers rollout_workers
COPY reward reward
COPY learner learner
COPY orchestrator orchestrator
COPY examples examples
RUN uv pip install --no-cache --python /opt/earshot --no-deps .

FROM python:${PYTHON_TAG}${PYTHON_DIGEST}
LABEL org.opencontainers.image.title="Earshot: service"
# The same user id in all images, so that each can read what another writes to shared storage.
RUN groupadd --gid 10001 earshot && useradd --uid 10001 --gid earshot --create-home earshot \
    && install -d -o earshot -g earshot /data
COPY --from=build /opt/earshot /opt/earshot
COPY --chmod=0755 deploy/docker/entrypoint.sh /usr/local/bin/earshot-entrypoint
ENV PATH=/opt/earshot/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    EARSHOT_DATA=/data/service EARSHOT_CACHE=/data/cache
USER 10001:10001
WORKDIR /home/earshot
EXPOSE 8420
HEALTHCHECK --interval=15s --timeout=5s --start-period=90s --retries=4 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8420/healthz', timeout=4)"]
ENTRYPOINT ["earshot-entrypoint"]
CMD ["serve", "--host", "0.0.0.0"]
