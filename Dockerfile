# A run served as a container; the run folder is mounted read-only:
#
#   docker build -t finetune-serve .
#   docker run --rm -p 8000:8000 --read-only --tmpfs /tmp -v "$PWD/runs/mine:/model:ro" finetune-serve
FROM python:3.12-slim AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY finetune ./finetune
RUN python -m venv /venv && /venv/bin/pip install --no-cache-dir -c constraints.txt ".[serve]"

FROM python:3.12-slim
COPY --from=build /venv /venv
RUN useradd --system --no-create-home --uid 10001 finetune
USER 10001
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 HOME=/tmp FINETUNE_CACHE=/tmp/finetune MPLCONFIGDIR=/tmp
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/healthz', timeout=2)"]
# SIGTERM, which `docker stop` sends, ends it in order; its exit code then is 143.
ENTRYPOINT ["finetune", "serve", "/model", "--host", "0.0.0.0"]
CMD ["--port", "8000"]
