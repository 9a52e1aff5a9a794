"""Great Expectations in its own environment: `suite.json data.csv …`; prints which expectations each file failed."""

import json
import sys
from pathlib import Path

import great_expectations as gx
import pandas as pd

suite = gx.ExpectationSuite(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
context = gx.get_context(mode="ephemeral")
whole = (
    context.data_sources.add_pandas("pandas").add_dataframe_asset("rows").add_batch_definition_whole_dataframe("all")
)
found = {}
for name in sys.argv[2:]:
    result = whole.get_batch({"dataframe": pd.read_csv(name)}).validate(suite)
    failed = [one.expectation_config for one in result.results if not one.success]
    found[Path(name).stem] = {
        "checked": len(result.results),
        "failed": [[one.type, one.kwargs.get("column"), one.severity.value] for one in failed],
    }
sys.stdout.write(json.dumps(found) + "\n")
