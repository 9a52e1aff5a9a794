"""A model card as one page of Markdown, for people."""

from collections.abc import Iterator

from driftloop.trainer.domain.card import Imported, ModelCard, TrainingData
from driftloop.trainer.domain.coverage import PredictionSets
from driftloop.trainer.domain.gate import GateDecision
from driftloop.trainer.domain.inspection import Inspection
from driftloop.trainer.domain.intervals import Interval
from driftloop.trainer.domain.metrics import Metrics

SHARES = ("accuracy", "precision", "recall", "f1", "roc_auc")
LOSSES = ("brier", "log_loss", "calibration_error")
# The rest is in the card itself.
SEGMENTS, FEATURES = 12, 12


def render(card: ModelCard) -> str:
    """The page; what a card of an older release does not say is left out."""
    parts = [_head(card), _training(card), *_metrics(card.metrics)]
    if card.decision is not None:
        parts.append(_decision(card.decision))
    if card.inspection is not None:
        parts += _inspection(card.inspection)
    parts.append(_origin(card))
    return "\n\n".join(parts) + "\n"


def _head(card: ModelCard) -> str:
    parameters = ", ".join(f"{name} {value}" for name, value in card.parameters.items() if value is not None)
    return (
        f"# {card.model_name}, version {card.model_version}\n\n"
        f"Made {card.created:%Y-%m-%d %H:%M} UTC: {card.reason}.\n"
        f"{card.estimator}{f' ({parameters})' if parameters else ''}, seed {card.seed}."
        f" A score of {card.decision_threshold:g} or more says 1."
    )


def _training(card: ModelCard) -> str:
    data = card.training
    text = (
        f"## Trained on\n\n{data.rows} rows, {data.positives} of them positive:"
        f" {data.baseline_rows} of the baseline and {data.labeled_rows} labelled ones of production."
    )
    if card.imported is not None:
        text = _imported(card.imported, data)
    if data.since is not None and data.until is not None:
        text += f" These were predicted from {data.since:%Y-%m-%d %H:%M} to {data.until:%Y-%m-%d %H:%M} UTC."
    for name, one in card.label_delays.items():
        text += (
            f"\nLabels of {name}, {one.rows}: half of them came within {_span(one.p50_seconds)} of the prediction,"
            f" nine of ten within {_span(one.p90_seconds)}."
        )
    return f"{text}\nSHA-256 {data.digest}"


def _span(seconds: float) -> str:
    for unit, length in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} seconds"


def _imported(found: Imported, data: TrainingData) -> str:
    said = {
        "none": "no row of the baseline",
        "baseline-train": "the baseline's training rows",
        "file": f"{found.named_rows} rows in a file",
    }
    made_with = f", made with scikit-learn {found.made_with}" if found.made_with else ""
    return (
        f"## Trained on\n\nMade elsewhere and imported from {found.source}{made_with}; SHA-256 of the file"
        f" {found.file_digest}.\nWho imported it says that it was trained on {said[found.trained_on]}:"
        f" {data.rows} rows of the baseline, {len(found.seen_holdout)} of them held out, which are left out of every"
        " figure below and of every later comparison with it. What else it was trained on nobody here knows."
    )


def _metrics(metrics: dict[str, Metrics]) -> Iterator[str]:
    yield "## How good\n\nOn rows that it never trained on, with 95 % intervals."
    for name, figures in metrics.items():
        lines = [
            f"### {name}: {figures.rows} rows, {figures.positives} positive",
            "",
            "| figure | value | interval |",
            "|---|---|---|",
            *_figures(figures),
            f"| always the commoner class | {figures.majority:.1%} | |",
        ]
        if figures.mean_score is not None:
            share = figures.positives / figures.rows
            lines += ["", f"Mean score {figures.mean_score:.3f}, share of positives {share:.3f}."]
        yield "\n".join(lines)


def _figures(figures: Metrics) -> Iterator[str]:
    for name in (*SHARES, *LOSSES):
        value, interval = getattr(figures, name), figures.intervals.get(name)
        if value is None:
            continue
        form = ".1%" if name in SHARES else ".3f"
        shown = "" if interval is None else _between(interval, form)
        yield f"| {name.replace('_', ' ')} | {value:{form}} | {shown} |"


def _decision(decision: GateDecision) -> str:
    said = "promoted" if decision.promoted else "rejected"
    return "\n".join((f"## The gate: {said}", "", *(f"- {reason}" for reason in decision.reasons)))


def _inspection(found: Inspection) -> Iterator[str]:
    if found.importances:
        rows = [f"| {one.feature} | {one.rise:+.4f} | {one.spread:.4f} |" for one in found.importances[:FEATURES]]
        title = (
            f"## What it goes by\n\nRise of the Brier score where a feature is shuffled ({found.importance_rows} rows)."
        )
        yield "\n".join((title, "", "| feature | rise | spread |", "|---|---|---|", *rows))
    if found.segments:
        worst = sorted(found.segments, key=lambda one: one.accuracy)[:SEGMENTS]
        rows = [f"| {s.name} | {s.rows} | {s.accuracy:.1%} | {_between(s.interval, '.1%')} |" for s in worst]
        title = f"## Where it is weakest\n\nOf the {found.rows} rows of {found.slice}."
        yield "\n".join((title, "", "| segment | rows | accuracy | interval |", "|---|---|---|---|", *rows))
    if found.prediction_sets is not None:
        yield _sets(found.prediction_sets)


def _sets(found: PredictionSets) -> str:
    return (
        f"## Prediction sets\n\nLevel {found.level:.0%}, made from {found.rows} rows: in 95 of 100 samples of this size"
        f" the sets hold the label of {_between(found.band, '.1%')} of the rows to come.\n"
        f"Made from one half and checked on the other, {found.checked_rows} rows: {found.coverage:.1%},"
        f" {_between(found.coverage_band, '.1%')} was to be expected."
    )


def _origin(card: ModelCard) -> str:
    lines = ["## Made by", ""]
    if card.code is not None:
        commit = f", commit {card.code.commit}" if card.code.commit else ""
        lines.append(f"driftloop-trainer {card.code.version}{commit}; contract {card.contract_digest}")
    lines.append(", ".join(f"{name} {version}" for name, version in card.libraries.items()))
    return "\n".join(lines)


def _between(interval: Interval, form: str) -> str:
    low, high = interval
    return f"{low:{form}} to {high:{form}}"
