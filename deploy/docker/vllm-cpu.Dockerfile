# syntax=docker/dockerfile:1
# vLLM on a CPU: what `make vllm` runs, for machines without a GPU. From the repository's root:
#   docker build -f deploy/docker/vllm-cpu.Dockerfile -t interestream-vllm-cpu .

FROM python:3.11-slim AS build
RUN python -m venv /opt/vllm
COPY deploy/vllm/constraints.txt /tmp/
# the list is whole (README of deploy/vllm), so nothing is resolved
RUN --mount=type=cache,target=/var/cache/pip \
    /opt/vllm/bin/pip install --cache-dir /var/cache/pip --no-deps -r /tmp/constraints.txt

FROM python:3.11-slim
RUN useradd --system --uid 10001 --create-home vllm
COPY --from=build /opt/vllm /opt/vllm
ENV PATH=/opt/vllm/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    VLLM_NO_USAGE_STATS=1 \
    HF_HUB_OFFLINE=1
USER 10001
WORKDIR /home/vllm
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=300s --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["python", "-m", "vllm.entrypoints.openai.api_server", "--host=0.0.0.0", "--port=8000"]
