# The image of deploy/Dockerfile with journalctl, for agents that have a source of type journald.
ARG PENSTOCK_IMAGE
FROM ${PENSTOCK_IMAGE}
USER 0:0
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends systemd \
 && rm -rf /var/lib/apt/lists/*
USER 10001:10001
