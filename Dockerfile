FROM python:3.12-slim

COPY pyproject.toml README.md LICENSE /src/
COPY common /src/common
COPY broker_node /src/broker_node
COPY merchant_node /src/merchant_node
COPY customer_node /src/customer_node
COPY auditor_node /src/auditor_node
COPY veilmart /src/veilmart
COPY mosquitto /src/mosquitto
RUN pip install --no-cache-dir --no-compile /src && rm -rf /src

# One user for every node; a volume that is first mounted on one of these folders becomes that user's.
RUN useradd --uid 10001 --home-dir /home/veilmart --create-home veilmart \
    && install -d -o veilmart -m 700 /market /market/ca /market/broker /market/bus /merchant /customer
COPY scripts/compose-keys /usr/local/bin/compose-keys
USER veilmart
ENV VEILMART_HOME=/market PYTHONUNBUFFERED=1
ENTRYPOINT ["veilmart"]
