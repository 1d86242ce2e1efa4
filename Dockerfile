# The program in an image: docker build -t thirdshift . && docker run --rm -v "$PWD:/jobs" thirdshift plan job.yaml
# Keys reach it by name (`--env DEEPSEEK_API_KEY`); none is built in. compose.yaml serves a job beside Prefect's server.
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS build
WORKDIR /source
RUN python -m venv /opt/thirdshift
COPY requirements.txt ./
RUN /opt/thirdshift/bin/python -m pip install --no-cache-dir --no-compile --no-deps --require-hashes -r requirements.txt
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
COPY router ./router
COPY engines ./engines
COPY warehouse ./warehouse
COPY flows ./flows
RUN /opt/thirdshift/bin/python -m pip install --no-cache-dir --no-deps --no-index --no-build-isolation . \
    && /opt/thirdshift/bin/python -m compileall -qq -j 0 /opt/thirdshift/lib

FROM python:${PYTHON}-slim
RUN useradd --uid 1000 --create-home night \
    && install --directory --owner night --group night /jobs /prefect
COPY --from=build /opt/thirdshift /opt/thirdshift
ENV PATH=/opt/thirdshift/bin:$PATH
USER 1000
WORKDIR /jobs
# a night that is told to stop keeps what is paid for; give it the time: docker stop --timeout 60
STOPSIGNAL SIGTERM
ENTRYPOINT ["thirdshift"]
CMD ["--help"]
