"""From a challenger to what the registry keeps of it."""

import msgspec
import numpy as np

from driftloop.common.contract import Contract
from driftloop.common.contract import digest as contract_digest
from driftloop.common.registry import Bundle, KnownAnswers
from driftloop.trainer.domain.challenger import Challenger


def bundle(contract: Contract, challenger: Challenger) -> Bundle:
    """What the registry keeps of a challenger."""
    return Bundle(
        model_name=contract.name,
        model_version=challenger.card.model_version,
        model=challenger.model,
        card=msgspec.json.encode(challenger.card),
        profile=challenger.profile,
        known_answers=KnownAnswers(
            inputs=tuple(
                tuple(None if np.isnan(value) else float(value) for value in row) for row in challenger.known_inputs
            ),
            probabilities=tuple(float(value) for value in challenger.known_probabilities),
            tolerance=1e-5,
        ),
        contract_digest=contract_digest(contract),
        created=challenger.card.created,
    )
