# The server and its page, from a checkout:
#
#   docker build -t limner .
#   docker run --init --stop-timeout 40 -p 127.0.0.1:8000:8000 -e LIMNER_API_KEY=... limner
#
# Flags follow the name: `... limner --model /models/mine`. It listens on all interfaces of its container and asks for a key;
# --insecure lets everyone in who reaches the port. `make image-steps` runs these steps without Docker.
FROM python:3.11-slim

# a torch for CPUs; for GPUs: --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130 and docker run --gpus all
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1
# few pools of memory in place of one for each thread: what was freed is used again
ENV MALLOC_ARENA_MAX=2

COPY . /src
RUN pip install --index-url $TORCH_INDEX "$(grep '^torch==' /src/constraints.txt)"
RUN pip install -c /src/constraints.txt "/src[ui]"

RUN useradd --create-home limner
USER limner
WORKDIR /home/limner

EXPOSE 8000
HEALTHCHECK --start-period=60s --timeout=5s CMD python -c "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/ready')"
ENTRYPOINT ["limner", "serve", "--host", "0.0.0.0"]
