# The cloud service. Build: docker build -t autoglm-cloud .   Settings: docs/guide/cloud.md
FROM debian:12-slim AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ make python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*
COPY pyproject.toml CMakeLists.txt README.md LICENSE /source/
COPY cmake /source/cmake
COPY cpp /source/cpp
COPY src /source/src
RUN python3 -m venv /opt/autoglm \
    && /opt/autoglm/bin/pip install --no-cache-dir "/source[cloud,grammar]"

FROM debian:12-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates python3 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin autoglm
COPY --from=build /opt/autoglm /opt/autoglm
ENV PATH=/opt/autoglm/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    AUTOGLM_CLOUD_HOST=0.0.0.0 \
    AUTOGLM_CLOUD_PORT=8443
USER 10001
EXPOSE 8443
# SIGTERM drains: give the container longer than AUTOGLM_CLOUD_DRAIN_S before it is killed.
STOPSIGNAL SIGTERM
ENTRYPOINT ["autoglm", "cloud"]
CMD ["serve"]
