"""Produces what the Python client cannot: a header whose name is not UTF-8. Any other client can."""

import ctypes
from pathlib import Path

import confluent_kafka

_LIBRARIES = ("../confluent_kafka.libs/librdkafka*", ".dylibs/librdkafka*")
_PRODUCER, _TOPIC, _PARTITION, _VALUE, _FLAGS, _HEADERS, _END = 0, 1, 3, 4, 7, 10, 0
_COPY = 2


def produce_with_header_name(bootstrap_servers: str, topic: str, value: bytes, name: bytes) -> None:
    """Put one record with one header into partition 0, and wait for its ack."""
    library = _library()
    error = ctypes.create_string_buffer(512)
    configuration = ctypes.c_void_p(library.rd_kafka_conf_new())
    library.rd_kafka_conf_set(configuration, b"bootstrap.servers", bootstrap_servers.encode(), error, 512)
    client = ctypes.c_void_p(library.rd_kafka_new(_PRODUCER, configuration, error, 512))
    assert client, error.value
    headers = ctypes.c_void_p(library.rd_kafka_headers_new(ctypes.c_size_t(1)))
    library.rd_kafka_header_add(headers, name, ctypes.c_ssize_t(len(name)), b"value", ctypes.c_ssize_t(5))
    failed = library.rd_kafka_producev(
        client,
        ctypes.c_int(_TOPIC), ctypes.c_char_p(topic.encode()),
        ctypes.c_int(_PARTITION), ctypes.c_int32(0),
        ctypes.c_int(_VALUE), ctypes.c_char_p(value), ctypes.c_size_t(len(value)),
        ctypes.c_int(_FLAGS), ctypes.c_int(_COPY),
        ctypes.c_int(_HEADERS), headers,
        ctypes.c_int(_END),
    )  # fmt: skip
    assert failed == 0
    assert library.rd_kafka_flush(client, 10_000) == 0
    library.rd_kafka_destroy(client)


def _library() -> ctypes.CDLL:
    folder = Path(confluent_kafka.__file__).parent
    found = [path for pattern in _LIBRARIES for path in folder.glob(pattern)]
    library = ctypes.CDLL(str(found[0]))
    for name in ("conf_new", "new", "headers_new"):
        getattr(library, f"rd_kafka_{name}").restype = ctypes.c_void_p
    return library
