"""From request to roll-out in one glance."""

from grafana_foundation_sdk.models import units

from deploy.grafana.expressions import MODEL, SLO, VERSION, accuracy, of_model, of_version, quantile, rate
from deploy.grafana.panels import CRITICAL, SEVERITIES, WARNING, board, chart, figure, steps

REQUESTS = rate("driftloop_predictions_total", "model_version, result", MODEL)
PANELS = (
    figure(
        "Verdict",
        "The alarm policy's word on the champion.",
        units.Short,
        (f"max(driftloop_drift_verdict{{{MODEL}}})", "verdict"),
        limits=[(1, WARNING), (2, CRITICAL)],
        names=SEVERITIES,
    ),
    figure(
        "Champion",
        "The version that should serve.",
        units.Short,
        (of_model("driftloop_champion_version"), "version"),
    ),
    figure(
        "Requests failed",
        "Share of requests of the last five minutes answered 500 or 503. The SLO allows 0.1 % in 30 days.",
        units.PercentUnit,
        (f"model:driftloop_predict_errors:ratio_rate5m{{{MODEL}}}", "failed"),
        limits=[(SLO, WARNING), (14.4 * SLO, CRITICAL)],
    ),
    figure(
        "Slowest of a hundred",
        "The time within which 99 % of requests are answered, the durable log included.",
        units.Seconds,
        (quantile(0.99, "driftloop_prediction_seconds"), "p99"),
        limits=[(0.1, WARNING), (0.3, CRITICAL)],
    ),
    figure(
        "Accuracy, realised",
        "Of the last window of labelled rows.",
        units.PercentUnit,
        (f'max(driftloop_realised_performance{{{MODEL}, figure="accuracy"}})', "accuracy"),
    ),
    figure(
        "Alerts that fire",
        "Of Driftloop's, pages and tickets.",
        units.Short,
        ('count(ALERTS{alertname=~"Driftloop.*", alertstate="firing"}) or vector(0)', "alerts"),
        limits=[(1, WARNING)],
    ),
    chart(
        "1. Requests",
        "Answers a second, by version and result.",
        units.RequestsPerSecond,
        (REQUESTS, "version {{model_version}}: {{result}}"),
    ),
    chart(
        "2. Counted",
        "Records a second whose effect is committed, by service and topic.",
        units.EventsPerSecond,
        (rate("driftloop_consumed_total", "job, topic"), "{{job}}: {{topic}}"),
    ),
    chart(
        "3. Outcomes",
        "Laboratories' outcomes a second, by what became of them.",
        units.EventsPerSecond,
        (rate("driftloop_outcomes_total", "status"), "{{status}}"),
    ),
    steps(
        "4. Verdict",
        "The verdict by version, and the alarms that labels and data quality raise by themselves.",
        (of_version("driftloop_drift_verdict"), VERSION),
        (f"max by (signal) (driftloop_signal_severity{{{MODEL}}})", "{{signal}}"),
        names=SEVERITIES,
    ),
    chart(
        "5. Accuracy",
        "Estimated without labels, realised with them, and on the version's held-out rows.",
        units.PercentUnit,
        accuracy("driftloop_estimated_performance", "estimated"),
        accuracy("driftloop_realised_performance", "realised"),
        accuracy("driftloop_heldout_performance", "held out"),
        most=1,
    ),
    chart(
        "6. Labels that a retraining lacks",
        "Rows with labels that the open request still waits for; 0 where none is open.",
        units.Short,
        (of_model("driftloop_retrain_waiting_rows"), "missing labels"),
    ),
    chart(
        "7. Retraining",
        "How long the open request has been in its state; nothing where none is open.",
        units.Seconds,
        (f"max by (state) (driftloop_retraining_state_seconds{{{MODEL}}})", "{{state}}"),
    ),
    chart(
        "8. Roll-out",
        "The share of requests that the canary answers.",
        units.PercentUnit,
        (of_model("driftloop_canary_weight"), "weight"),
        most=1,
    ),
    steps(
        "9. Served",
        "The version that each replica serves.",
        (f"driftloop_model_version{{{MODEL}}}", "{{instance}}"),
    ),
)

BOARD = board(
    "overview",
    "Loop overview",
    "From request to roll-out in one glance.",
    models_of="driftloop_model_version",
    panels=PANELS,
)
