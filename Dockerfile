# docker build -t segmentation-bundles .                                        for a processor
# docker build -t segmentation-bundles --build-arg BASE=pytorch/pytorch:latest .  for an NVIDIA GPU
ARG BASE=python:3.11-slim
FROM ${BASE}
WORKDIR /opt/segmentation-bundles
COPY . .
RUN python -m pip install --no-cache-dir '.[data,deploy,report,zoo]'
WORKDIR /work
ENTRYPOINT ["segbundles"]
