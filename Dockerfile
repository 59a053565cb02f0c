# finetune in a container.
#   CUDA:  docker build -t finetune:cuda .                   and run it with --gpus all
#   CPU:   docker build -t finetune --build-arg TORCH_INDEX=ADDRESS .    1 GB instead of 5
#          ADDRESS is that of torch's builds for the CPU, which its page "Get started" shows.
# Train: docker run --rm -v "$PWD:/data" finetune train photos
# Serve: docker run --rm -v "$PWD:/data" -p 8765:8765 -e FINETUNE_API_KEY=choose-one finetune serve garden --host 0.0.0.0
FROM python:3.13-slim AS build
ARG TORCH_INDEX=
WORKDIR /source
RUN python -m venv /opt/finetune
ENV PATH=/opt/finetune/bin:$PATH PIP_NO_CACHE_DIR=1
RUN pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "torch>=2.10" "torchvision>=0.25"
COPY pyproject.toml README.md LICENSE ./
COPY finetune finetune
RUN pip install ".[heic,onnx,lite]"

FROM python:3.13-slim
COPY --from=build /opt/finetune /opt/finetune
# A user without rights: files that it writes to /data belong to the user who owns that folder if --user is given.
RUN useradd --create-home --uid 1000 finetune && mkdir /data && chown finetune /data
ENV PATH=/opt/finetune/bin:$PATH PYTHONUNBUFFERED=1 NO_ALBUMENTATIONS_UPDATE=1
USER finetune
WORKDIR /data
EXPOSE 8765
ENTRYPOINT ["finetune"]
CMD ["--help"]
