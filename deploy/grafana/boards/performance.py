"""How often the model is right, as far as is known."""

from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models import units

from deploy.grafana.expressions import MODEL, VERSION, accuracy, of_version, quantile
from deploy.grafana.panels import WARNING, board, chart, heat_map

REALISED, ESTIMATED = "driftloop_realised_performance", "driftloop_estimated_performance"
HELDOUT = accuracy("driftloop_heldout_performance", "")[0]
LABELS = f"sum(rate(driftloop_label_delay_seconds_count{{{MODEL}}}[$__range]))"
PANELS = (
    chart(
        "Accuracy, estimated with its band, and realised",
        "The estimate needs no labels; its band, between the dashed lines, holds the window's size and the "
        "calibration's error. Realised: of the last window of labelled rows.",
        units.PercentUnit,
        accuracy("driftloop_estimated_performance", "low", "accuracy_low"),
        accuracy("driftloop_estimated_performance", "high", "accuracy_high"),
        accuracy("driftloop_estimated_performance", "estimated"),
        accuracy("driftloop_realised_performance", "realised"),
        accuracy("driftloop_heldout_performance", "held out"),
        width=16,
        most=1,
    ).override_by_regexp(
        "/^(low|high), /",
        [
            models.DynamicConfigValue("custom.lineWidth", 1),
            models.DynamicConfigValue("custom.lineStyle", {"fill": "dash", "dash": [6, 6]}),
            models.DynamicConfigValue("custom.fillOpacity", 0),
        ],
    ),
    chart(
        "Below the held-out figure",
        "By how much accuracy lies below that on the held-out rows: realised, and the upper end of "
        "the estimate. Above 0.05 there is an alert.",
        units.PercentUnit,
        (f"{HELDOUT} - {accuracy(REALISED, '')[0]}", "realised, " + VERSION),
        (f"{HELDOUT} - {accuracy(ESTIMATED, '', 'accuracy_high')[0]}", "estimated, " + VERSION),
        limits=[(0.05, WARNING)],
    ),
    chart(
        "Precision",
        "Of those who were told yes: the share of whom it was true.",
        units.PercentUnit,
        accuracy(REALISED, "realised", "precision"),
        accuracy(ESTIMATED, "estimated", "precision"),
        most=1,
    ),
    chart(
        "Recall",
        "Of those of whom it is true: the share who were told yes.",
        units.PercentUnit,
        accuracy(REALISED, "realised", "recall"),
        accuracy(ESTIMATED, "estimated", "recall"),
        most=1,
    ),
    chart(
        "ROC AUC and F1",
        "How well scores part the two classes, and the harmonic mean of precision and recall.",
        units.PercentUnit,
        accuracy(REALISED, "ROC AUC", "roc_auc"),
        accuracy(REALISED, "F1", "f1"),
        most=1,
    ),
    chart(
        "Brier score and calibration error",
        "How far scores are from the truth, and from their own frequencies: 0 is best.",
        units.Short,
        accuracy(REALISED, "Brier", "brier"),
        accuracy(REALISED, "calibration error", "calibration_error"),
        accuracy(ESTIMATED, "Brier estimated", "brier"),
    ),
    chart(
        "Log loss",
        "The mean of minus the logarithm of the probability that the truth was given.",
        units.Short,
        accuracy(REALISED, "log loss", "log_loss"),
    ),
    chart(
        "Prediction sets",
        "Share of prediction sets that held the label; nominal is 90 %, unless the contract says otherwise.",
        units.PercentUnit,
        (of_version("driftloop_prediction_set_coverage"), VERSION),
        most=1,
    ),
    chart(
        "Coverage",
        "Share of the last judged window's rows that is labelled; and labels that came in the chart's "
        "time for each prediction made.",
        units.PercentUnit,
        (of_version("driftloop_label_coverage"), "window, " + VERSION),
        (
            f'{LABELS} / sum(rate(driftloop_predictions_total{{{MODEL}, result="ok"}}[$__range]))',
            "labels a prediction",
        ),
    ),
    chart(
        "Label delay",
        "Time from a prediction to its first label.",
        units.Seconds,
        (quantile(0.5, "driftloop_label_delay_seconds"), "half"),
        (quantile(0.9, "driftloop_label_delay_seconds"), "nine of ten"),
    ),
    heat_map(
        "Label delay, distribution",
        "Labels that came, by how long after the prediction.",
        units.Seconds,
        (
            f"sum by (le) (increase(driftloop_label_delay_seconds_bucket{{{MODEL}}}[$__rate_interval]))",
            "{{le}}",
        ),
        buckets=True,
    ),
)

BOARD = board(
    "performance",
    "Performance",
    "How often the model is right, as far as is known.",
    models_of="driftloop_heldout_performance",
    panels=PANELS,
)
