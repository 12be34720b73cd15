# mxsplicer on the command line, with the versions that were tested together.
#   docker build -t mxsplicer .                                  for processors
#   docker build --build-arg TORCH=cu130 -t mxsplicer:cuda .     for NVIDIA GPUs (CUDA 13.0)
FROM python:3.11-slim AS wheel
WORKDIR /source
COPY . .
RUN pip install --no-cache-dir build==1.6.1 && python -m build --wheel --outdir /wheel

FROM python:3.11-slim
ARG TORCH=cpu
# Nextflow measures its processes with ps.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends procps && rm -rf /var/lib/apt/lists/*
COPY constraints.txt /tmp/constraints.txt
RUN version=$(sed -n 's/^torch==//p' /tmp/constraints.txt) && \
    pip install --no-cache-dir --constraint /tmp/constraints.txt \
        --extra-index-url "https://download.pytorch.org/whl/${TORCH}" "torch==${version}+${TORCH}"
COPY --from=wheel /wheel /tmp/wheel
RUN pip install --no-cache-dir --constraint /tmp/constraints.txt /tmp/wheel/*.whl
# Any user may run it (--user): caches lie where everyone can write.
ENV HOME=/tmp MPLCONFIGDIR=/tmp/matplotlib NUMBA_CACHE_DIR=/tmp/numba
USER 1000
WORKDIR /data
CMD ["mxsplicer", "--help"]
