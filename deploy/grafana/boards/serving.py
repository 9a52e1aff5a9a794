"""Whether callers get their answers, in time, and whether each is kept."""

from grafana_foundation_sdk.models import units

from deploy.grafana.expressions import JOBS, MODEL, SLO, SLOW, quantile, rate
from deploy.grafana.panels import CRITICAL, WARNING, board, chart, heat_map, steps

WINDOWS = ("5m", "1h", "6h", "3d")
PREDICTOR = 'job="predictor"'
PANELS = (
    chart(
        "Requests",
        "Answers a second, by result: invalid is the caller's doing, unavailable (503) and failed (500) are ours.",
        units.RequestsPerSecond,
        (rate("driftloop_predictions_total", "result", MODEL), "{{result}}"),
    ),
    chart(
        "Time to answer",
        "The durable log included. 99 % of requests shall take less than 100 ms.",
        units.Seconds,
        *[
            (quantile(share, "driftloop_prediction_seconds"), name)
            for share, name in ((0.5, "half"), (0.9, "nine of ten"), (0.99, "99 of 100"))
        ],
        limits=[(0.1, WARNING), (0.3, CRITICAL)],
    ),
    heat_map(
        "Time to answer, distribution",
        "Requests by how long they took.",
        units.Seconds,
        (f"sum by (le) (increase(driftloop_prediction_seconds_bucket{{{MODEL}}}[$__rate_interval]))", "{{le}}"),
        buckets=True,
    ),
    chart(
        "Failed, against the error budget",
        "Share of requests answered 500 or 503 in each window. The budget is 0.1 % of 30 days.",
        units.PercentUnit,
        *[(f"model:driftloop_predict_errors:ratio_rate{window}{{{MODEL}}}", window) for window in WINDOWS],
        limits=[(SLO, WARNING), (14.4 * SLO, CRITICAL)],
    ),
    chart(
        "Slow, against the error budget",
        "Share of requests that took longer than 100 ms in each window. The budget is 1 % of 30 days.",
        units.PercentUnit,
        *[(f"model:driftloop_predict_slow:ratio_rate{window}{{{MODEL}}}", window) for window in WINDOWS],
        limits=[(SLOW, WARNING), (14.4 * SLOW, CRITICAL)],
    ),
    chart(
        "Kept",
        "Inferences a second: confirmed by the broker in time, spooled, replayed, or refused because "
        "neither could be done.",
        units.EventsPerSecond,
        *[
            (f"sum(rate(driftloop_inferences_{name}_total[$__rate_interval]))", name)
            for name in ("sent", "spooled", "replayed", "rejected")
        ],
    ),
    chart(
        "Time to be durable",
        "How long a request's inferences take into the log or the spool: 300 ms is where the spool takes over.",
        units.Seconds,
        (quantile(0.5, "driftloop_inference_delivery_seconds", matchers=PREDICTOR), "half"),
        (quantile(0.99, "driftloop_inference_delivery_seconds", matchers=PREDICTOR), "99 of 100"),
        limits=[(0.3, WARNING)],
    ),
    steps("Ready", "1 where an instance is up and ready.", (f"driftloop_ready{{{JOBS}}}", "{{job}} {{instance}}")),
    steps(
        "Versions",
        "The version that each replica serves.",
        (f"driftloop_model_version{{{MODEL}}}", "{{instance}}"),
    ),
    chart(
        "Refused at the door",
        "Requests a second, by reason: no credential, one that is not good, or one that may not.",
        units.RequestsPerSecond,
        (rate("driftloop_access_refused_total", "job, reason"), "{{job}}: {{reason}}"),
        limits=[(1, WARNING)],
    ),
    chart(
        "Processor",
        "Processor seconds a second of each predictor.",
        units.Short,
        (f"rate(process_cpu_seconds_total{{{PREDICTOR}}}[$__rate_interval])", "{{instance}}"),
    ),
    chart(
        "Memory",
        "Resident memory of each predictor.",
        units.BytesIEC,
        (f"process_resident_memory_bytes{{{PREDICTOR}}}", "{{instance}}"),
    ),
)

BOARD = board(
    "serving",
    "Serving",
    "Whether callers get their answers, in time, and whether each is kept.",
    models_of="driftloop_model_version",
    panels=PANELS,
)
