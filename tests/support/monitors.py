"""The drift monitor's real process on a contract with panes of a second, and what it has counted."""

import msgspec
import numpy as np
import yaml

from driftloop.common.contract import Contract, load_contract
from driftloop.devstack.processes import ServiceProcess
from tests.support.artifacts import small_bundle
from tests.support.house import House
from tests.support.paths import MODELS
from tests.support.predictions import profile_of, rows_like


def contract_with_quick_panes(house: House) -> str:
    """The loan contract with panes of a second, in the test's folder."""
    source = MODELS / "loan"
    document = yaml.safe_load((source / "contract.yaml").read_text())
    document["drift"]["pane_seconds"] = 1
    (house.folder / "baseline.csv").write_bytes((source / "baseline.csv").read_bytes())
    path = house.folder / "contract.yaml"
    path.write_text(yaml.safe_dump(document))
    return str(path)


def start(house: House, name: str, contract: str) -> tuple[ServiceProcess, str]:
    process, url = house.process(
        name,
        "driftloop.drift_monitor.main",
        {"DATABASE_URL": house.database_url("drift_monitor"), "DRIFTLOOP_CONTRACTS": contract},
    )
    process.start()
    return process, url


def serving(house: House) -> tuple[str, Contract, np.random.Generator]:
    """A serving state with version 1 of the loan model; its contract's path, the contract, and a generator of rows."""
    path = contract_with_quick_panes(house)
    contract = load_contract(house.folder / "contract.yaml")
    rng = np.random.default_rng(3)
    profile = profile_of(contract, rows_like(contract, rng, 400), rng.random(400).round(6))
    bundle = msgspec.structs.replace(small_bundle(contract), profile=profile)
    house.serve(1, house.register(bundle), contract.name, 1)
    return path, contract, rng


def pane_rows(house: House) -> dict[str, int]:
    """What all panes hold together."""
    with house.database("drift_monitor") as connection:
        rows = connection.execute(
            "SELECT kind, sum(n)::bigint FROM panes WHERE kind < 2 GROUP BY kind ORDER BY kind"
        ).fetchall()
    return {("predictions", "labels")[kind]: n for kind, n in rows}
