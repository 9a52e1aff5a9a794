"""An inference request: its tensors become rows that the contract can judge, whichever way they came."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from driftloop.common.contract import Contract, Feature
from driftloop.common.rows import InvalidRow, Value
from driftloop.predictor.body import IDENTIFIERS, check_given_once, read_object
from driftloop.predictor.open_inference.outputs import OUTPUTS, Wanted
from driftloop.predictor.open_inference.tensors import (
    InputTensor,
    read_numbers,
    read_texts,
    shortened,
    wrong,
    wrong_shape,
)

Columns = dict[str, Sequence[Value]]


class _Output(msgspec.Struct, frozen=True):
    name: str
    parameters: dict[str, Any] | None = None


class _Header(msgspec.Struct, frozen=True):
    """The JSON of a request; what is null is not there. What a client adds for other servers is ignored."""

    inputs: list[InputTensor]
    id: str | None = None
    outputs: list[_Output] | None = None
    parameters: dict[str, Any] | None = None


@dataclass(frozen=True)
class InferenceRequest:
    """Rows of the contract's features, perhaps with patient and order, and what is to be answered of them."""

    id: str | None
    rows: Sequence[dict[str, Value]]
    outputs: Sequence[Wanted]


def read_request(body: bytes, header_length: str | None, contract: Contract, max_rows: int) -> InferenceRequest:
    """The request in a body, whose JSON ends after `header_length` bytes if it has others. Raises InvalidBody."""
    json, content = _parted(body, header_length)
    header = _header(json)
    inputs = _named(header.inputs)
    contents = _contents(inputs, content)
    _check_shapes(header.inputs, max_rows)
    columns = _columns(contract, inputs, contents)
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return InferenceRequest(header.id, rows, _outputs(header))


def in_words(invalid: InvalidRow) -> str:
    """What is wrong with a row, without its values: clients log what they are told."""
    return "; ".join(f"{error.field}: {error.reason}" for error in invalid.errors)


# --- the parts of a body


def _parted(body: bytes, header_length: str | None) -> tuple[bytes, bytes]:
    """The JSON, and the tensors' bytes after it."""
    if header_length is None:
        return body, b""
    # No body has a length of more digits, and a number of a thousand digits cannot be made.
    if not (header_length.isascii() and header_length.isdigit() and len(header_length) <= 18):
        raise wrong("Inference-Header-Content-Length must be a number: that of the bytes of the JSON")
    length = int(header_length)
    if length > len(body):
        raise wrong(f"Inference-Header-Content-Length is {length}, and the body has {len(body)} bytes only")
    return body[:length], body[length:]


def _header(json: bytes) -> _Header:
    members = read_object(json)
    try:
        header = msgspec.convert(members, _Header)
    except msgspec.ValidationError as error:
        raise wrong(f"{error}: send an inference request of the Open Inference Protocol") from error
    try:
        check_given_once(json, sum(map(len, _objects(members))))
    except InvalidRow as invalid:
        raise wrong(in_words(invalid)) from invalid
    return header


def _objects(members: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for one in (members, *members["inputs"], *(members.get("outputs") or ())):
        yield one
        yield one.get("parameters") or {}


def _named(inputs: Sequence[InputTensor]) -> dict[str, InputTensor]:
    named = {tensor.name: tensor for tensor in inputs}
    if len(named) != len(inputs):
        twice = next(tensor for tensor in inputs if named[tensor.name] is not tensor)
        raise wrong(f"{twice.called} is given more than once")
    return named


def _contents(inputs: Mapping[str, InputTensor], content: bytes) -> dict[str, bytes]:
    """The bytes of each tensor that is not in the JSON: they follow it in the inputs' order."""
    contents, at = {}, 0
    for name, tensor in inputs.items():
        size = tensor.size
        if size is None:
            continue
        if size > len(content) - at:
            raise wrong(
                f"{tensor.called}: fewer bytes than its binary_data_size follow the JSON and the inputs before it"
            )
        contents[name] = content[at : at + size]
        at += size
    if at != len(content):
        raise wrong(
            f"{len(content) - at} bytes follow the last input: say in each input's binary_data_size what it has"
        )
    return contents


def _check_shapes(inputs: Sequence[InputTensor], max_rows: int) -> None:
    """All inputs must have as many rows, and not too many. Raises InvalidBody."""
    if not inputs:
        raise wrong("the request has no input: send one of each feature")
    rows = inputs[0].shape[:1]
    for tensor in inputs:
        if not (1 <= len(tensor.shape) <= 2 and min(tensor.shape) >= 1):
            raise wrong_shape(tensor)
        if tensor.shape[0] > max_rows:
            raise wrong(f"{tensor.called} has too many rows: send 1 to {max_rows}, and more in several requests")
        if tensor.shape[:1] != rows:
            counts = f"{tensor.called} has {tensor.shape[0]} rows, {inputs[0].called} has {rows[0]}"
            raise wrong(f"{counts}: send as many of each")


# --- tensors as columns


def _columns(contract: Contract, inputs: Mapping[str, InputTensor], contents: Mapping[str, bytes]) -> Columns:
    """The values by feature, and by those of IDENTIFIERS that are given."""
    columns: Columns = {}
    features = dict(inputs)
    for name in IDENTIFIERS:
        named = features.pop(name, None)
        if named is not None:
            _check_column(named)
            columns[name] = [text or None for text in read_texts(named, contents.get(name))]
    matrix = _matrix(contract, features)
    if matrix is not None:
        values, width = read_numbers(matrix, contents.get(matrix.name)), len(contract.features)
        return columns | {name: values[place::width] for place, name in enumerate(contract.feature_names)}
    by_name = {feature.name: feature for feature in contract.features}
    for name, tensor in features.items():
        if name not in by_name:
            raise wrong(f"{tensor.called} is no feature of this model: {_takes(contract)}")
        _check_column(tensor)
        columns[name] = _values(by_name[name], tensor, contents.get(name))
    missing = [feature.name for feature in contract.features if feature.required and feature.name not in columns]
    if missing:
        raise wrong(f"the inputs {missing} are missing: {_takes(contract)}")
    return columns


def _matrix(contract: Contract, features: Mapping[str, InputTensor]) -> InputTensor | None:
    """The input that has all features, in the contract's order, in its columns."""
    if len(features) != 1 or any(feature.type == "category" for feature in contract.features):
        return None
    (tensor,) = features.values()
    whole = len(tensor.shape) == 2 and tensor.shape[1] == len(contract.features)
    return tensor if whole and contract.feature_names != (tensor.name,) else None


def _takes(contract: Contract) -> str:
    names = f"send one of each of {list(contract.feature_names)}"
    if any(feature.type == "category" for feature in contract.features):
        return names
    return f"{names}, or one [n, {len(contract.features)}] with all of them in this order"


def _check_column(tensor: InputTensor) -> None:
    if len(tensor.shape) == 2 and tensor.shape[1] != 1:
        raise wrong_shape(tensor)


def _values(feature: Feature, tensor: InputTensor, content: bytes | None) -> Sequence[Value]:
    return read_texts(tensor, content) if feature.type == "category" else read_numbers(tensor, content)


# --- what is to be answered


def _outputs(header: _Header) -> Sequence[Wanted]:
    """All outputs unless some are named, in JSON unless bytes are asked for."""
    default = _flag(header.parameters, "binary_data_output", False)
    if not header.outputs:
        return [Wanted(name, default) for name in OUTPUTS]
    names = [output.name for output in header.outputs]
    for place, name in enumerate(names):
        if name not in OUTPUTS:
            raise wrong(f"the model has no output {shortened(name)!r}: ask for some of {list(OUTPUTS)}")
        if name in names[:place]:
            raise wrong(f"output {name!r} is asked for more than once")
    return [Wanted(output.name, _flag(output.parameters, "binary_data", default)) for output in header.outputs]


def _flag(parameters: Mapping[str, Any] | None, name: str, default: bool) -> bool:
    flag = (parameters or {}).get(name, default)
    if not isinstance(flag, bool):
        raise wrong(f"the parameter {name} must be true or false")
    return flag
