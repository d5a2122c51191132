# lesionwise as a BIDS App: docker run --rm -v DATA:/data:ro -v OUT:/out lesionwise study /data /out participant
FROM python:3.11-slim
ENV PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1 MPLCONFIGDIR=/tmp/matplotlib
WORKDIR /opt/lesionwise
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src ./src
RUN pip install --disable-pip-version-check -c constraints.txt '.[cluster]' && lesionwise --version
WORKDIR /tmp
ENTRYPOINT ["lesionwise"]
CMD ["--help"]
