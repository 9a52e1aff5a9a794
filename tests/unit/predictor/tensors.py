"""Requests of the Open Inference Protocol, written by hand: JSON, and bytes after it."""

import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import httpx

from tests.support.bad_bodies import ROW
from tests.unit.predictor.builders import Running

INFER = "/v2/models/diabetes/infer"
LENGTH = "inference-header-content-length"
FORMS = {"FP64": "d", "FP32": "f", "INT8": "b", "INT32": "i", "INT64": "q", "UINT8": "B", "UINT64": "Q", "BOOL": "?"}


def tensor(
    name: str, data: Sequence[Any], datatype: str = "FP64", shape: Sequence[int] | None = None
) -> dict[str, Any]:
    """An input whose values are in the JSON."""
    return {"name": name, "shape": list(shape or [len(data)]), "datatype": datatype, "data": list(data)}


def rows(count: int = 1, **changed: Sequence[Any]) -> dict[str, list[Any]]:
    """Columns of `count` rows that are all the same but for those that are given."""
    return {name: [value] * count for name, value in ROW.items()} | {name: list(one) for name, one in changed.items()}


def columns(values: Mapping[str, Sequence[Any]], datatype: str = "FP64") -> list[dict[str, Any]]:
    """An input each."""
    return [tensor(name, one, "BYTES" if isinstance(one[0], str) else datatype) for name, one in values.items()]


def packed(inputs: Sequence[dict[str, Any]], **more: Any) -> tuple[bytes, dict[str, str]]:
    """The body with every input's values as bytes after the JSON, and the header that says where it ends."""
    contents, described = b"", []
    for one in inputs:
        content = content_of(one["datatype"], one["data"])
        contents += content
        described.append(
            {name: value for name, value in one.items() if name != "data"}
            | {"parameters": {"binary_data_size": len(content)}}
        )
    head = json.dumps({"inputs": described} | more).encode()
    return head + contents, {LENGTH: str(len(head))}


def content_of(datatype: str, values: Sequence[Any]) -> bytes:
    """Values as the protocol's bytes."""
    if datatype == "BYTES":
        return b"".join(struct.pack("<I", len(text.encode())) + text.encode() for text in values)
    return struct.pack(f"<{len(values)}{FORMS[datatype]}", *values)


def infer(found: Running, inputs: Sequence[Any], path: str = INFER, **more: Any) -> httpx.Response:
    """The answer to inputs in JSON."""
    return found.client.post(path, json={"inputs": list(inputs)} | more)


def read(answer: httpx.Response) -> dict[str, list[Any]]:
    """The outputs of an answer, by name, wherever their values are."""
    assert answer.status_code == 200, answer.text
    length = int(answer.headers.get(LENGTH, len(answer.content)))
    head, at, found = json.loads(answer.content[:length]), length, {}
    for output in head["outputs"]:
        (count,) = output["shape"]
        if "data" in output:
            found[output["name"]] = output["data"]
            continue
        size = output["parameters"]["binary_data_size"]
        content, at = answer.content[at : at + size], at + size
        found[output["name"]] = values_of(output["datatype"], content, count)
    assert at == len(answer.content)
    return found


def values_of(datatype: str, content: bytes, count: int) -> list[Any]:
    """What bytes say."""
    if datatype != "BYTES":
        return list(struct.unpack(f"<{count}{FORMS[datatype]}", content))
    texts = []
    while content:
        (length,) = struct.unpack_from("<I", content)
        texts.append(content[4 : 4 + length].decode())
        content = content[4 + length :]
    assert len(texts) == count
    return texts
