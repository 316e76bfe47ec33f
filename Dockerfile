# The runtime alone, with the demo agents. Yours on top, in three lines:
#
#   FROM agentrt:0.1.0
#   COPY shop /app/shop
#   CMD ["serve", "shop.agents:agents", "--host", "0.0.0.0"]
#
# Built in two stages: what builds does not ship. Dependencies are those of requirements-image.lock, by hash.
ARG BASE_IMAGE=python:3.12-slim-bookworm

FROM ${BASE_IMAGE} AS build
WORKDIR /build
COPY requirements-image.lock ./
RUN python3 -m venv /opt/agentrt \
    && /opt/agentrt/bin/pip install --no-cache-dir --require-hashes -r requirements-image.lock
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN python3 -m venv /opt/builder \
    && /opt/builder/bin/pip wheel --no-cache-dir --no-deps --wheel-dir /build/wheels . \
    && /opt/agentrt/bin/pip install --no-cache-dir --no-deps --no-index /build/wheels/*.whl \
    && /opt/agentrt/bin/python -m compileall -q /opt/agentrt/lib

FROM ${BASE_IMAGE}
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="agentrt" \
      org.opencontainers.image.description="A horizontally scaled, stateless runtime for LLM agents" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
COPY --from=build /opt/agentrt /opt/agentrt
WORKDIR /app
# The root is read-only in production: nothing is written but below /tmp.
ENV PATH=/opt/agentrt/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    AGENTRT_DEMO_DB=/tmp/demo.db
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 \
    CMD ["python3", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/livez', timeout=2)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["agentrt"]
CMD ["serve", "agentrt.demo:agents", "--host", "0.0.0.0", "--port", "8000"]
