# geossl for the CPU:   docker build -t geossl .
# with CUDA:            docker build -t geossl:cuda --build-arg TORCH=https://download.pytorch.org/whl/cu126 .
# run:                  docker run --rm -v "$PWD:/work" geossl embed --aoi sample --s1 sample --s2 sample --out map.zarr
FROM python:3.12-slim-bookworm

ARG TORCH=https://download.pytorch.org/whl/cpu
ARG EXTRAS=stac,remote
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 GEOSSL_CACHE=/cache

WORKDIR /src
# hadolint ignore=DL3013  # floors stand in pyproject.toml; pin for a build that must be repeated
RUN pip install torch torchvision --index-url "${TORCH}"
COPY pyproject.toml README.md LICENSE ./
COPY geossl geossl
COPY recipes recipes
# hadolint ignore=DL3013
RUN pip install ".[${EXTRAS}]" \
    && useradd --create-home --uid 1000 geossl \
    && mkdir /cache /work \
    && chown geossl /cache /work

USER 1000
WORKDIR /work
VOLUME ["/cache"]
ENTRYPOINT ["geossl"]
