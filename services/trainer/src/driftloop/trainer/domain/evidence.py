"""What a decision of the gate was made from: kept, so that anyone can decide again and come to the same."""

import hashlib
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import msgspec
import numpy as np
from numpy.typing import NDArray

from driftloop.common.contract import Gates
from driftloop.trainer.domain.gate import GateDecision, Paired, judge

# Of the labels that judged a challenger so many must still be there when it is to serve.
KEPT_LABELS = 0.9


@dataclass(frozen=True)
class Evidence:
    """All that `decide` looks at.

    `newest` are the gate's rows with the prediction `ids` [n] and `subjects` [n] ("" where unknown), `segments` masks
    [n] over them by name, `baseline` the held-out baseline rows; `seed` is the bootstrap's. `concept_drift` says that
    it was declared.
    """

    ids: NDArray[np.str_]
    subjects: NDArray[np.str_]
    newest: Paired
    segments: Mapping[str, NDArray[np.bool_]]
    baseline: Paired
    gates: Gates
    seed: int
    concept_drift: bool = False

    def __post_init__(self) -> None:
        """Refuse columns of different length, a prediction that occurs twice, and two thresholds."""
        lengths = {len(self.ids), len(self.subjects), len(self.newest), *map(len, self.segments.values())}
        if len(lengths) != 1:
            raise ValueError(f"evidence has columns of different lengths {sorted(lengths)}: pass one entry a row")
        if len(np.unique(self.ids)) != len(self.ids):
            raise ValueError("a prediction occurs twice in the evidence: pass each prediction's last label only")
        if self.newest.threshold != self.baseline.threshold:
            raise ValueError(
                f"evidence with the thresholds {self.newest.threshold:g} and {self.baseline.threshold:g}: decide by one"
            )

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of everything in it: two with one digest give one decision."""
        texts = (self.ids.tolist(), self.subjects.tolist(), list(self.segments))
        numbers = (self.gates, self.seed, self.newest.threshold, self.concept_drift)
        found = hashlib.sha256(msgspec.json.encode((texts, numbers), order="deterministic"))
        for pairs in (self.newest, self.baseline):
            for column, kind in ((pairs.labels, "<i1"), (pairs.champion, "<f8"), (pairs.challenger, "<f8")):
                found.update(np.ascontiguousarray(column, dtype=kind).tobytes())
        for mask in self.segments.values():
            found.update(mask.tobytes())
        return found.hexdigest()

    def without(self, subjects: Collection[str]) -> "Evidence":
        """The same without the rows of these subjects, who were erased."""
        return self._where(~np.isin(self.subjects, sorted(subjects)) | (self.subjects == ""))

    def relabelled(self, labels: Mapping[str, int | None]) -> "Evidence":
        """The same with other labels, by prediction id; a row whose label was retracted (None) leaves.

        Predictions that are not in it are passed over. Raises ValueError for a label that is neither 0 nor 1.
        """
        if any(label not in (0, 1, None) for label in labels.values()):
            raise ValueError("a label is neither 0 nor 1, nor None for a retracted one: pass no others")
        now = [
            labels.get(one, label) for one, label in zip(self.ids.tolist(), self.newest.labels.tolist(), strict=True)
        ]
        kept = np.array([label is not None for label in now], dtype=np.bool_)
        known = np.array([label for label in now if label is not None], dtype=np.int8)
        remaining = self._where(kept)
        return replace(remaining, newest=replace(remaining.newest, labels=known))

    def _where(self, kept: NDArray[np.bool_]) -> "Evidence":
        return replace(
            self,
            ids=self.ids[kept],
            subjects=self.subjects[kept],
            newest=self.newest.where(kept),
            segments={name: mask[kept] for name, mask in self.segments.items()},
        )


@dataclass(frozen=True)
class Reconsidered:
    """A decision made again because so many labels are `changed`, and from what it was made."""

    evidence: Evidence
    decision: GateDecision
    changed: int


def reconsider(evidence: Evidence, changed: Mapping[str, int | None]) -> Reconsidered:
    """Decide by the labels as they are now, see `Evidence.relabelled`.

    There were enough of them; that a few went since says nothing against it.
    """
    gates = msgspec.structs.replace(evidence.gates, gate_labels=math.ceil(KEPT_LABELS * evidence.gates.gate_labels))
    now = replace(evidence.relabelled(changed), gates=gates)
    return Reconsidered(now, decide(now), len(changed))


def decide(evidence: Evidence) -> GateDecision:
    """The one way in which the gate decides: the same evidence gives the same decision, to the last bit."""
    decision = judge(
        evidence.gates,
        evidence.newest,
        evidence.baseline,
        evidence.segments,
        seed=evidence.seed,
        concept_drift=evidence.concept_drift,
    )
    return msgspec.structs.replace(decision, evidence=evidence.digest)
