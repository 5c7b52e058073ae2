# metarl on a CPU, from a checkout:
#
#     docker build -t metarl .
#     docker run --rm metarl                                                  # metarl list
#     docker run --rm -v "$PWD":/work --user "$(id -u):$(id -g)" metarl quickstart --short
FROM python:3.12-slim

# MuJoCo renders with OSMesa where there is no display; films as .mp4 need ffmpeg.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libosmesa6 ffmpeg \
    && rm -rf /var/lib/apt/lists/*

COPY . /opt/metarl
RUN pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu \
    "/opt/metarl[mujoco,minigrid,digits]"

ENV MUJOCO_GL=osmesa MPLCONFIGDIR=/tmp/matplotlib
RUN useradd --create-home metarl && mkdir /work && chown metarl /work
USER metarl
WORKDIR /work
ENTRYPOINT ["metarl"]
CMD ["list"]
