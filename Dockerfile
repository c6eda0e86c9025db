# localprobe on a CPU. What it fetches is kept in a volume:
#     docker build -t localprobe .
#     docker run --rm -t -v localprobe:/cache localprobe
#     docker run --rm -t -v localprobe:/cache -v "$PWD:/work" localprobe sweep --task capitals -n 5
FROM python:3.12-slim-bookworm AS built
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ cmake ninja-build git \
    && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/localprobe
COPY . /source
# Compiled for any machine of this kind, and not for the one that builds.
ENV CMAKE_ARGS="-DGGML_NATIVE=OFF"
RUN /opt/localprobe/bin/pip install --no-cache-dir "/source[plot]"

FROM python:3.12-slim-bookworm
# OpenMP, which llama.cpp's threads are made with.
RUN apt-get update \
    && apt-get install -y --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=built /opt/localprobe /opt/localprobe
ENV PATH=/opt/localprobe/bin:$PATH LOCALPROBE_CACHE=/cache
RUN useradd --create-home probe && mkdir /cache /work && chown probe /cache /work
USER probe
VOLUME /cache
WORKDIR /work
ENTRYPOINT ["localprobe"]
CMD ["demo"]
