# The service in an image: dependencies by hash from requirements.lock, the project as a
# wheel with the built dashboard in it. Nothing of the build is left in what is shipped.
# scripts/check_dockerfile.py replays it without Docker, which is why all that is
# installed lies under /app. Base images are named by exact tag.

FROM node:24.21.0-trixie-slim AS dashboard
WORKDIR /app/dashboard
COPY dashboard/package.json dashboard/package-lock.json dashboard/.npmrc ./
RUN npm ci
COPY dashboard ./
RUN npm run build

FROM python:3.13.16-slim-trixie AS build
WORKDIR /app/src
COPY requirements-build.lock requirements.lock ./
RUN python -m venv /app/build && python -m venv --without-pip /app/venv
RUN /app/build/bin/pip install --quiet --no-deps --require-hashes --only-binary :all: \
        --requirement requirements-build.lock
RUN /app/build/bin/pip --python /app/venv/bin/python install --quiet \
        --no-deps --require-hashes --only-binary :all: --requirement requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY scripts/check_environment.py scripts/
COPY config config
COPY service service
COPY --from=dashboard /app/service/web/static service/web/static
RUN /app/build/bin/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist . \
    && /app/build/bin/pip --python /app/venv/bin/python install --quiet \
        --no-deps --no-index dist/*.whl
RUN /app/build/bin/pip --python /app/venv/bin/python check \
    && /app/build/bin/python scripts/check_environment.py \
        --path /app/venv/lib/python*/site-packages project

FROM python:3.13.16-slim-trixie
COPY --from=build /app/venv /app/venv
ENV PATH=/app/venv/bin:$PATH
WORKDIR /app
# For events kept by SQLite; open to whichever user an orchestrator picks.
RUN mkdir -m 1777 var
VOLUME /app/var
# By number, so that an orchestrator can tell it is not root.
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/health/live', timeout=2)"]
ENTRYPOINT ["copilot-usage"]
CMD ["serve", "--host", "0.0.0.0"]
# `make image` passes the version, which pyproject.toml has.
ARG VERSION=unknown
LABEL org.opencontainers.image.title="copilot-usage" \
      org.opencontainers.image.description="HTTP service that reports the credits each Copilot message used, and why." \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="$VERSION"
