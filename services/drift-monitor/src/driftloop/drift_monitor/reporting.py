"""What the report says, from what is stored."""

from datetime import datetime
from typing import Any

import msgspec

from driftloop.drift_monitor.domain.evaluation import INSUFFICIENT, Watch, WindowResult
from driftloop.drift_monitor.domain.fold.base import merged
from driftloop.drift_monitor.domain.labelled import LabelledResult, labelled_result
from driftloop.drift_monitor.handlers import Watches
from driftloop.drift_monitor.pane_store import LABEL_TOTALS, LABELS, PREDICTIONS, Version
from driftloop.drift_monitor.store import Evaluation, Store


def report_of(store: Store, watches: Watches, model: str, version: int | None, windows: int) -> dict[str, Any]:
    """A model's report: the champion's verdict and figures first, then every version's."""
    champion, previous = store.champion(model)
    rows = [row for row in store.versions(model) if version in (None, row["model_version"])]
    versions = [_version(store, watches, model, row, windows) for row in rows]
    current = next((one for one in versions if one["model_version"] == champion), None)
    return {
        "model_name": model,
        "champion": champion,
        "verdict": current["verdict"] if current else INSUFFICIENT,
        "raw_severity": current["raw_severity"] if current else None,
        "attribution": current["attribution"] if current else None,
        "features": current["features"] if current else [],
        "performance": current["performance"] if current else None,
        "rollout": _rollout(store, model, previous, champion) if version is None else None,
        "versions": versions,
    }


def history_of(
    store: Store, version: Version, since: datetime | None, until: datetime | None, limit: int
) -> dict[str, Any]:
    """The windows of one version that overlap [since, until), newest first, and those of its labelled rows."""
    return {
        "model_name": version[0],
        "model_version": version[1],
        "windows": [_window(one) for one in store.windows(version, limit, since, until)],
        "performance_windows": [_performance(one) for one in store.performance_windows(version, limit, since, until)],
    }


def _version(store: Store, watches: Watches, model: str, row: dict[str, Any], limit: int) -> dict[str, Any]:
    version = (model, row["model_version"])
    evaluation = store.evaluation(version) or Evaluation()
    windows = store.windows(version, limit)
    last = windows[0]["result"] if windows else None
    counted, beyond = store.panes.totals(version, PREDICTIONS)
    labelled, labels_beyond = store.panes.totals(version, LABELS)
    watch = watches(store, version)
    return {
        "model_version": version[1],
        "verdict": evaluation.verdict if evaluation.windows else INSUFFICIENT,
        "raw_severity": last["raw_severity"] if last else None,
        "attribution": msgspec.to_builtins(evaluation.attribution),
        "superseded": evaluation.superseded,
        "opened_by": evaluation.opened_by,
        "reference": {"origin": row["reference_origin"], "rows": row["reference_rows"]},
        "counted": counted,
        "late": store.late(version, evaluation),
        "beyond_retention": beyond,
        "parked": row["parked"],
        "labelled": labelled,
        "labels_beyond_retention": labels_beyond,
        "tiled_until": evaluation.tiled_until,
        "labelled_until": evaluation.labelled_until,
        "windows_closed": evaluation.windows,
        "performance_windows_closed": evaluation.performance_windows,
        "alarms": msgspec.to_builtins(evaluation.alarms),
        "features": [_feature(one) for one in last["features"]] if last else [],
        "score": _feature(last["score"]) if last else None,
        "quality": {"severity": last["quality"], "faults": last["faults"]} if last else None,
        "estimated": last["estimated"] if last else None,
        "performance": _realised(store, watch, version, counted) if watch else None,
        "windows": [_window(one) for one in windows],
        "performance_windows": [_performance(one) for one in store.performance_windows(version, limit)],
    }


def _realised(store: Store, watch: Watch, version: Version, counted: int) -> dict[str, Any]:
    """Performance on all labelled rows there ever were, flat, and what was estimated for the same rows beside it."""
    panes = store.panes.panes(version, LABEL_TOTALS)
    starts = panes[0].starts if panes else datetime.min
    result = labelled_result(
        watch, starts, panes[-1].ends if panes else starts, counted, merged(p.state for p in panes)
    )
    found: dict[str, Any] = msgspec.to_builtins(result.realised)
    beside = msgspec.to_builtins(result)
    return found | {name: beside[name] for name in ("coverage", "estimated", "sets", "delay_median_seconds")}


def _feature(result: dict[str, Any]) -> dict[str, Any]:
    """A feature's figures; `d` is the statistic where that is the KS test's."""
    return result | {"d": result["statistic"] if result["kind"] == "numeric" else None}


def _window(row: dict[str, Any]) -> dict[str, Any]:
    """A closed window; `offsets` are the first record of each partition that may count, and the one after the last."""
    beside = {name: row[name] for name in ("number", "evaluated_at", "attribution", "offsets")}
    result: dict[str, Any] = row["result"]
    return beside | result | {"features": [_feature(one) for one in result["features"]]}


def _performance(row: dict[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = row["result"]
    return {"number": row["number"], "evaluated_at": row["evaluated_at"]} | result


def _rollout(store: Store, model: str, previous: int | None, champion: int | None) -> dict[str, Any] | None:
    """What the last change of champion did: did drift go down, did performance come back? None: not known yet."""
    if previous is None or champion is None:
        return None
    before, after = _last(store, (model, previous)), _last(store, (model, champion))
    drift_before, drift_after = _worst_psi(before[0]), _worst_psi(after[0])
    accuracy_before, accuracy_after = _accuracy(before[1]), _accuracy(after[1])
    return {
        "from": previous,
        "to": champion,
        "worst_psi_before": drift_before,
        "worst_psi_after": drift_after,
        "raw_severity_before": before[0].raw_severity if before[0] else None,
        "raw_severity_after": after[0].raw_severity if after[0] else None,
        "drift_went_down": None if drift_before is None or drift_after is None else drift_after < drift_before,
        "accuracy_before": accuracy_before,
        "accuracy_after": accuracy_after,
        "performance_came_back": (
            None if accuracy_before is None or accuracy_after is None else accuracy_after > accuracy_before
        ),
    }


def _last(store: Store, version: Version) -> tuple[WindowResult | None, LabelledResult | None]:
    return store.last_window(version), store.last_performance(version)


def _worst_psi(window: WindowResult | None) -> float | None:
    return None if window is None else max((one.psi for one in window.features), default=None)


def _accuracy(found: LabelledResult | None) -> float | None:
    return None if found is None else found.realised.accuracy
