"""A classifier's ONNX file from elsewhere, in the form that the house serves: `features` in, `probabilities` out.

Only the ends are changed: names, the type float32, one column of probabilities or two, ZipMap. What lies between stays
as it is, and is held to the rules for all models.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from driftloop.common.contract import Target
from driftloop.common.onnx_policy import INPUT, OUTPUT, SIZE_LIMIT, UnusableModel, check_model

LEAST_OPSET, OPSET, IR_VERSION = 9, 17, 8
# No name of the file can be one of ours, or be taken for it.
_PREFIX = "imported/"
_FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE)


class ImportRefused(ValueError):
    """A model from elsewhere cannot become a version. The text says why, and the remedy."""


@dataclass(frozen=True)
class _Probabilities:
    """A tensor of probabilities: its name and type, how many columns it has, and which of two is P(label = 1)."""

    name: str
    kind: int
    columns: int
    positive: int = 1


def adapted(data: bytes, width: int, target: Target, positive: int | None = None) -> bytes:
    """The model with one input `features` float32 [n, width] and one output `probabilities` float32 [n, 2].

    A model that has them already is left as it is. `positive` says which of two columns is P(label = 1), the second if
    nothing says otherwise. Raises ImportRefused.
    """
    try:
        if positive in (None, 1):
            check_model(data, width)
            return data
    except UnusableModel:
        # It may be usable in another form; whatever else is wrong with it is found below.
        pass
    if len(data) > SIZE_LIMIT:
        raise ImportRefused(f"the model has {len(data)} bytes, at most {SIZE_LIMIT} are served: train a smaller one")
    try:
        model = onnx.load_model_from_string(data)
    except DecodeError as error:
        raise ImportRefused("the file is no ONNX model: export it to ONNX, or say that it is an estimator") from error
    _check_opset(model)
    source, found = _input(model.graph, width), _output(model.graph, target)
    if positive is not None and found.columns == 2:
        found = _Probabilities(found.name, found.kind, found.columns, positive)
    changed = _rebuilt(model, width, source, found)
    try:
        check_model(changed, width)
    except UnusableModel as error:
        raise ImportRefused(f"the model must not be served: {error}") from error
    return changed


def _check_opset(model: ModelProto) -> None:
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx") and entry.version < LEAST_OPSET:
            raise ImportRefused(
                f"the model uses opset {entry.version}: export it with {LEAST_OPSET} or newer, like {OPSET}"
            )


# --- what there is


def _input(graph: GraphProto, width: int) -> ValueInfoProto:
    # Old files list their constants among the inputs.
    constants = {tensor.name for tensor in graph.initializer}
    inputs: list[ValueInfoProto] = [value for value in graph.input if value.name not in constants]
    wanted = f"one input, float32 [n, {width}], the features in the contract's order"
    if len(inputs) != 1:
        raise ImportRefused(f"the model has {len(inputs)} inputs {_names(inputs)}: export it with {wanted}")
    kind, shape = _tensor(inputs[0])
    if kind not in _FLOATS or (shape is not None and len(shape) != 2):
        raise ImportRefused(
            f"the model's input {inputs[0].name[:40]!r} is {_shown(kind, shape)}: export it with {wanted}"
        )
    if shape is not None and shape[1] not in (None, width):
        raise ImportRefused(
            f"the model takes {shape[1]} columns, the contract has {width} features: train it on these, or change them"
        )
    return inputs[0]


def _output(graph: GraphProto, target: Target) -> _Probabilities:
    found = {value.name: one for value in graph.output for one in _candidate(graph, value, target)}
    if len(found) > 1 and OUTPUT in found:
        return found[OUTPUT]
    if len(found) != 1:
        raise ImportRefused(
            f"of the model's outputs {_names(graph.output)} {len(found)} may be probabilities (float32 [n, 2], [n, 1]"
            f" or [n]): export one, or call it {OUTPUT!r}"
        )
    return next(iter(found.values()))


def _candidate(graph: GraphProto, value: ValueInfoProto, target: Target) -> Iterator[_Probabilities]:
    """What an output gives, if that may be probabilities."""
    for node in graph.node:
        if node.op_type == "ZipMap" and value.name in node.output:
            # It makes dictionaries of a matrix with one column a class.
            yield _Probabilities(node.input[0], TensorProto.FLOAT, 2, positive_column(_classes(node), target))
            return
    kind, shape = _tensor(value)
    if kind not in _FLOATS or shape is None:
        return
    if len(shape) == 1 or (len(shape) == 2 and shape[1] in (1, 2)):
        yield _Probabilities(value.name, kind, 1 if len(shape) == 1 else shape[1] or 1)


def _classes(node: NodeProto) -> list[object]:
    for attribute in node.attribute:
        if attribute.name == "classlabels_int64s":
            return list(attribute.ints)
        if attribute.name == "classlabels_strings":
            return [text.decode(errors="replace") for text in attribute.strings]
    return []


def positive_column(classes: Sequence[object], target: Target) -> int:
    """Which of a model's two classes is the contract's positive one. Raises ImportRefused."""
    for negative, positive in ((0, 1), (target.negative, target.positive)):
        if len(classes) == 2 and set(classes) == {negative, positive}:
            return list(classes).index(positive)
    raise ImportRefused(
        f"the model tells {len(classes)} classes apart, {[str(one)[:40] for one in classes[:5]]}: it must be 0 and 1,"
        f" or the contract's {target.negative!r} and {target.positive!r}"
    )


def _tensor(value: ValueInfoProto) -> tuple[int, list[int | None] | None]:
    """Element type, 0 of no tensor; and the sizes, None where one is open, None without a shape."""
    if not value.type.HasField("tensor_type"):
        return TensorProto.UNDEFINED, None
    kind = value.type.tensor_type
    if not kind.HasField("shape"):
        return kind.elem_type, None
    return kind.elem_type, [dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim]


def _shown(kind: int, shape: list[int | None] | None) -> str:
    sizes = "of no shape" if shape is None else str(["n" if size is None else size for size in shape[:10]])
    return f"{TensorProto.DataType.Name(kind).lower()} {sizes}" if kind in TensorProto.DataType.values() else sizes


def _names(values: Iterable[ValueInfoProto]) -> list[str]:
    return [value.name[:40] for value in values][:10]


# --- what is made of it


def _rebuilt(model: ModelProto, width: int, source: ValueInfoProto, found: _Probabilities) -> bytes:
    graph = model.graph
    kind, _ = _tensor(source)
    nodes = [_renamed(node) for node in graph.node if node.op_type != "ZipMap"]
    # A Cast to the type that there is already costs nothing.
    first = helper.make_node("Cast", [INPUT], [_PREFIX + source.name], to=kind)
    last, constants = _ending(_PREFIX + found.name, found)
    for tensor in graph.initializer:
        tensor.name = _PREFIX + tensor.name
    kept = _needed([first, *nodes, *last])
    read = {name for node in kept for name in node.input}
    made = helper.make_graph(
        kept,
        "imported",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [None, width])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [None, 2])],
        [*(tensor for tensor in graph.initializer if tensor.name in read), *constants],
    )
    # Whatever is odd in the file has to be found by the rules, so it stays.
    made.sparse_initializer.extend(graph.sparse_initializer)
    # Both are names of ONNX's own operators.
    opsets = {"" if one.domain == "ai.onnx" else one.domain: one.version for one in model.opset_import}
    opsets.setdefault("", OPSET)
    changed = helper.make_model(
        made,
        opset_imports=[helper.make_opsetid(domain, version) for domain, version in sorted(opsets.items())],
        ir_version=max(model.ir_version, IR_VERSION),
        functions=model.functions,
    )
    data: bytes = changed.SerializeToString()
    return data


def _renamed(node: NodeProto) -> NodeProto:
    copy = NodeProto()
    copy.CopyFrom(node)
    if copy.domain == "ai.onnx":
        copy.domain = ""
    # An empty name is an input that is left out.
    copy.input[:] = [name and _PREFIX + name for name in node.input]
    copy.output[:] = [name and _PREFIX + name for name in node.output]
    return copy


def _ending(name: str, found: _Probabilities) -> tuple[list[NodeProto], list[TensorProto]]:
    """From a tensor of probabilities to ours, with the constants that this needs."""
    nodes = [helper.make_node("Cast", [name], ["given"], to=TensorProto.FLOAT)]
    if found.columns == 2:
        order = np.array([1 - found.positive, found.positive], dtype=np.int64)
        nodes.append(helper.make_node("Gather", ["given", "order"], [OUTPUT], axis=1))
        return nodes, [numpy_helper.from_array(order, "order")]
    nodes += [
        helper.make_node("Reshape", ["given", "column"], ["positive"]),
        helper.make_node("Sub", ["one", "positive"], ["negative"]),
        helper.make_node("Concat", ["negative", "positive"], [OUTPUT], axis=1),
    ]
    column, one = np.array([-1, 1], dtype=np.int64), np.array([[1.0]], dtype=np.float32)
    return nodes, [numpy_helper.from_array(column, "column"), numpy_helper.from_array(one, "one")]


def _needed(nodes: list[NodeProto]) -> list[NodeProto]:
    """The nodes, in their order, without which there are no probabilities."""
    read, kept = {OUTPUT}, []
    for node in reversed(nodes):
        if read.intersection(node.output):
            read.update(node.input)
            kept.append(node)
    return kept[::-1]
