"""The Open Inference Protocol (V2) with its binary tensor data: what KServe's and Triton's clients speak."""

ROOT = "/v2"


def speaks(path: str) -> bool:
    """Whether a path is the protocol's."""
    return path == ROOT or path.startswith(ROOT + "/")


def infers(path: str) -> bool:
    """Whether a request to this path carries tensors."""
    return path.startswith(ROOT + "/models/") and path.endswith("/infer")
