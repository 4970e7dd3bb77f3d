# CPU:  docker build --tag omni-rlvr .
# CUDA: docker build --tag omni-rlvr:cuda --build-arg BASE=nvidia/cuda:12.9.1-base-ubuntu24.04 --build-arg TORCH_INDEX=https://pypi.org/simple .
# Run:  docker run --rm --gpus all --shm-size 8g --volume "$PWD":/work omni-rlvr:cuda +experiment=rlvr
ARG BASE=debian:13-slim
FROM ${BASE}

# The interpreter of the base itself, so that one file serves Debian's and NVIDIA's images.
# hadolint ignore=DL3008
RUN apt-get update \
  && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends python3 python3-venv \
  && rm -rf /var/lib/apt/lists/*
ENV PATH=/opt/venv/bin:$PATH
RUN python3 -m venv /opt/venv

# torch first and alone: it is the largest layer, and changes least. The index chooses between
# the CPU build and PyPI's, which brings CUDA's libraries.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY constraints.txt /src/
RUN pip install --no-cache-dir --constraint /src/constraints.txt --index-url "${TORCH_INDEX}" torch torchvision

COPY . /src
RUN pip install --no-cache-dir --constraint /src/constraints.txt /src

WORKDIR /work
ENTRYPOINT ["omni-rlvr"]
CMD ["--help"]
