"""Prefect in its own environment: runs the flow of the examples with a Secret block, against a server of its own."""

import json
import sys
from importlib import import_module

from prefect.blocks.system import Secret
from prefect.testing.utilities import prefect_test_harness

sys.path.insert(0, sys.argv[1])
flow = import_module("prefect_flow").driftloop_nightly
told = json.loads(sys.stdin.read())
with prefect_test_harness(server_startup_timeout=300):
    Secret(value=told.pop("key")).save("driftloop-operator-key")
    sys.stdout.write("\n" + json.dumps(flow(**told)) + "\n")
