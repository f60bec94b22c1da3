# The sample service: examples/python-grpcio, an ordinary gRPC server that knows nothing of browsers.
FROM python:3.13-slim-trixie
WORKDIR /app
COPY examples/python-grpcio/requirements.txt examples/python-grpcio/
RUN pip install --no-cache-dir --requirement examples/python-grpcio/requirements.txt
COPY proto/demo proto/demo
COPY examples/python-grpcio/server.py examples/python-grpcio/
USER 65534:65534
EXPOSE 50051
ENV PYTHONUNBUFFERED=1
ENTRYPOINT ["python", "examples/python-grpcio/server.py", "--address", "0.0.0.0:50051"]
