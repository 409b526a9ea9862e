# denseteacher on a GPU, or on a CPU: docker build -t denseteacher . && docker run --gpus all --shm-size=8g denseteacher
# torch brings CUDA with it; of the machine it needs the driver and NVIDIA's container toolkit alone.
FROM python:3.12.11-slim-bookworm

LABEL org.opencontainers.image.title="denseteacher" \
      org.opencontainers.image.licenses="Apache-2.0"

ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

WORKDIR /src
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY src ./src
RUN pip install --no-cache-dir ".[fast,onnx,tensorboard]" && rm -rf /src

# Nothing needs root; -u $(id -u) makes what is written the caller's
RUN useradd --create-home --uid 1000 denseteacher && mkdir /work && chown denseteacher /work
USER denseteacher
WORKDIR /work
ENTRYPOINT ["denseteacher"]
CMD ["doctor"]
