"""What an inference answers, a tensor each."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec

from driftloop.common.events import PredictionMade
from driftloop.predictor.doors import JSON, Answer
from driftloop.predictor.open_inference.tensors import BOOL, BYTES, FP64, INT64, written

_OCTETS = (b"content-type", b"application/octet-stream")


class Output(NamedTuple):
    """The datatype of an output, what it is of an inference, and what that means."""

    datatype: str
    of: Callable[[PredictionMade], Any]
    description: str


class Wanted(NamedTuple):
    """An output that is to be answered, as bytes or in the JSON."""

    name: str
    binary: bool


OUTPUTS = {
    "probability": Output(FP64, lambda made: made.score, "P(label = 1)."),
    "prediction": Output(BOOL, lambda made: made.prediction, "Whether it is at least the contract's threshold."),
    "prediction_id": Output(BYTES, lambda made: made.prediction_id, "The id under which the inference was logged."),
    "model_version": Output(INT64, lambda made: made.model_version, "The version that answered this row."),
    "variant": Output(BYTES, lambda made: made.variant, "Whether that was the champion or a canary."),
}


def encode_answer(
    model: str, version: int, id: str | None, made: Sequence[PredictionMade], wanted: Sequence[Wanted]
) -> Answer:
    """The answer to a request: JSON, and after it the tensors that are wanted as bytes."""
    contents: list[bytes] = []
    outputs = []
    for name, binary in wanted:
        datatype, of, _description = OUTPUTS[name]
        values = [of(one) for one in made]
        output: dict[str, Any] = {"name": name, "datatype": datatype, "shape": [len(made)]}
        if binary:
            contents.append(written(datatype, values))
            output["parameters"] = {"binary_data_size": len(contents[-1])}
        else:
            output["data"] = values
        outputs.append(output)
    head = {"model_name": model, "model_version": str(version)} | ({} if id is None else {"id": id})
    header = msgspec.json.encode(head | {"outputs": outputs})
    if not contents:
        return Answer(200, [JSON], header)
    length = (b"inference-header-content-length", b"%d" % len(header))
    return Answer(200, [_OCTETS, length], b"".join([header, *contents]))
