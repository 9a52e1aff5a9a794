"""The predictor's process without its inference log: what it serves more is what durable logging costs.

`BENCH_LOG` says how much is left out: `unsent`, records are made and go nowhere; `none`, nothing is made.
"""

import os
from collections.abc import Sequence

from driftloop.common.envelope import Outgoing
from driftloop.predictor import main
from driftloop.predictor.inference_log import InferenceLog


class Unsent(InferenceLog):
    """Makes each record, and takes it for delivered at once."""

    async def keep(self, events: Sequence[Outgoing]) -> None:
        """Keep nothing."""
        self._log.stamp(events)


class Nothing(InferenceLog):
    """No log at all."""

    async def keep(self, events: Sequence[Outgoing]) -> None:
        """Keep nothing."""


if __name__ == "__main__":
    vars(main)["InferenceLog"] = {"unsent": Unsent, "none": Nothing}[os.environ["BENCH_LOG"]]
    main.main()
