"""Which ONNX models may be loaded at all: checked on the bytes, before a runtime sees them.

The lists are here and nowhere else: a model that could widen them would make its own law. Only what a tabular
classifier needs is allowed: arithmetic, encoders, linear models and trees. No control flow, no functions, no operators
of others, no data outside the file.
"""

from collections.abc import Iterator

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

INPUT = "features"
OUTPUT = "probabilities"
SIZE_LIMIT = 200_000_000
NODE_LIMIT = 10_000

_STANDARD = """
    Abs Add And ArgMax Cast Clip Concat Constant Div Equal Exp Flatten Gather Gemm Greater GreaterOrEqual Identity IsNaN
    Less LessOrEqual Log MatMul Max Mean Min Mul Neg Not Or Pow Reciprocal ReduceMax ReduceMean ReduceMin ReduceSum
    ReduceSumSquare Relu Reshape Shape Sigmoid Sign Slice Softmax Split Sqrt Squeeze Sub Sum Tanh Transpose Unsqueeze
    Where
"""
_MACHINE_LEARNING = """
    ArrayFeatureExtractor Binarizer FeatureVectorizer Imputer LabelEncoder LinearClassifier LinearRegressor Normalizer
    OneHotEncoder Scaler SVMClassifier SVMRegressor TreeEnsemble TreeEnsembleClassifier TreeEnsembleRegressor
"""
# "" and "ai.onnx" are two names of the same operator set.
OPERATORS = {
    "": frozenset(_STANDARD.split()),
    "ai.onnx": frozenset(_STANDARD.split()),
    "ai.onnx.ml": frozenset(_MACHINE_LEARNING.split()),
}


class UnusableModel(ValueError):
    """A model must not serve. `reason` is a code for metrics and status, `detail` says what is wrong and the remedy."""

    def __init__(self, reason: str, detail: str) -> None:
        self.reason, self.detail = reason, detail
        super().__init__(f"{reason}: {detail}")


def check_model(data: bytes, width: int, size_limit: int = SIZE_LIMIT) -> None:
    """Check the bytes of an ONNX model that takes `features` float32 [n, width] and gives `probabilities` [n, 2].

    Raises UnusableModel with one of the reasons too_large, not_onnx, domain, operator, function, subgraph,
    external_data, input, output.
    """
    if len(data) > size_limit:
        raise UnusableModel("too_large", f"{len(data)} bytes, the limit is {size_limit}: train a smaller model")
    model = _parse(data)
    _check_operator_sets(model)
    if model.functions or model.training_info:
        raise UnusableModel("function", "the model defines functions or training steps: export a plain graph")
    graph = model.graph
    if len(graph.node) > NODE_LIMIT:
        raise UnusableModel("too_large", f"{len(graph.node)} nodes, the limit is {NODE_LIMIT}: export a plain graph")
    for node in graph.node:
        _check_node(node)
    if graph.sparse_initializer:
        raise UnusableModel("operator", "the model has sparse initializers: export dense ones")
    for tensor in graph.initializer:
        _check_tensor(tensor)
    _check_input(graph, width)
    _check_output(graph)
    _check_semantics(data)


def _parse(data: bytes) -> ModelProto:
    remedy = "export the model anew with the trainer"
    try:
        model = onnx.load_model_from_string(data)
    except DecodeError as error:
        raise UnusableModel("not_onnx", f"the bytes are no ONNX model: {remedy}") from error
    size = model.ByteSize()
    model.DiscardUnknownFields()
    if model.ByteSize() != size:
        # The runtime may know fields that this check does not.
        raise UnusableModel("not_onnx", f"the model has fields that cannot be checked here: {remedy}")
    if not model.graph.node:
        raise UnusableModel("not_onnx", f"the model computes nothing: {remedy}")
    return model


def _check_operator_sets(model: ModelProto) -> None:
    domains = [entry.domain for entry in model.opset_import]
    for domain in domains:
        if domain not in OPERATORS:
            raise UnusableModel("domain", f"operators of {domain[:40]!r} are not allowed: use ONNX's own")
    if len({domain or "ai.onnx" for domain in domains}) != len(domains):
        raise UnusableModel("domain", f"an operator set is imported twice in {domains}: import each once")


def _check_node(node: NodeProto) -> None:
    allowed = OPERATORS.get(node.domain)
    if allowed is None:
        raise UnusableModel("domain", f"an operator of {node.domain[:40]!r} is not allowed: use ONNX's own")
    if node.op_type not in allowed:
        name = f"{node.domain or 'ai.onnx'}.{node.op_type}"
        raise UnusableModel("operator", f"{name[:80]!r} is not among the allowed operators: use another estimator")
    for attribute in node.attribute:
        if attribute.HasField("g") or attribute.graphs or attribute.ref_attr_name:
            raise UnusableModel("subgraph", f"{node.op_type} holds a graph of its own: export a plain graph")
        for tensor in _tensors(attribute):
            _check_tensor(tensor)


def _tensors(attribute: AttributeProto) -> Iterator[TensorProto]:
    if attribute.HasField("sparse_tensor") or attribute.sparse_tensors:
        raise UnusableModel("operator", "an attribute holds a sparse tensor: export dense ones")
    if attribute.HasField("t"):
        yield attribute.t
    yield from attribute.tensors


def _check_tensor(tensor: TensorProto) -> None:
    if tensor.external_data or tensor.data_location != TensorProto.DEFAULT:
        raise UnusableModel("external_data", f"tensor {tensor.name[:40]!r} is outside the file: export one whole file")


def _check_input(graph: GraphProto, width: int) -> None:
    expected = f"exactly one input {INPUT!r}, float32 [n, {width}]"
    names = [value.name for value in graph.input]
    if names != [INPUT] or INPUT in {tensor.name for tensor in graph.initializer}:
        raise UnusableModel("input", f"the model must have {expected}, and has {[name[:40] for name in names[:10]]}")
    shape = _float_shape(graph.input[0])
    if shape is None or len(shape) != 2 or shape[0] is not None or shape[1] != width:
        raise UnusableModel("input", f"the model must have {expected}, and its input is {_shown(shape)}")


def _check_output(graph: GraphProto) -> None:
    expected = f"an output {OUTPUT!r}, float32 [n, 2]"
    found = [value for value in graph.output if value.name == OUTPUT]
    if len(found) != 1:
        names = [value.name[:40] for value in graph.output[:10]]
        raise UnusableModel("output", f"the model must have {expected}, and has {names}: export it without ZipMap")
    shape = _float_shape(found[0])
    if shape is None or len(shape) != 2 or shape[0] is not None or shape[1] not in (2, None):
        raise UnusableModel("output", f"the model must have {expected}, and it is {_shown(shape)}")


def _float_shape(value: ValueInfoProto) -> list[int | None] | None:
    """The sizes of a float32 tensor, None where a size is open; None for anything else, or without a shape."""
    kind = value.type.tensor_type
    if not value.type.HasField("tensor_type") or kind.elem_type != TensorProto.FLOAT or not kind.HasField("shape"):
        return None
    return [dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim]


def _shown(shape: list[int | None] | None) -> str:
    if shape is None:
        return "no float32 tensor with a shape"
    return "[" + ", ".join("n" if size is None else str(size) for size in shape[:10]) + "]"


def _check_semantics(data: bytes) -> None:
    """ONNX's own rules: operators exist in the versions imported, names are defined before use, attributes fit."""
    try:
        onnx.checker.check_model(data)
    except onnx.checker.ValidationError as error:
        raise UnusableModel("not_onnx", f"{str(error).splitlines()[0][:200]}: export the model anew") from error
