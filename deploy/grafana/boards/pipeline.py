"""Whether everything that was said is counted."""

from grafana_foundation_sdk.models import units

from deploy.grafana.expressions import quantile, rate
from deploy.grafana.panels import CRITICAL, WARNING, board, chart, steps

PANELS = (
    chart(
        "Lag",
        "Records that are not committed yet, of all replicas.",
        units.Short,
        ("job_group_topic:driftloop_consumer_lag_records:sum", "{{group}}: {{topic}}"),
        limits=[(10_000, WARNING)],
    ),
    chart(
        "Time to drain",
        "How long what waits will take at the present speed; nothing where nothing waits.",
        units.Seconds,
        ("job_group_topic:driftloop_consumer_drain_seconds:lag_by_rate10m", "{{group}}: {{topic}}"),
        limits=[(900, WARNING)],
    ),
    steps(
        "Consumers that stand still",
        "1 where a consumer waits for a decision.",
        ("max by (job, group) (driftloop_consumer_stopped)", "{{group}}"),
        names=(("runs", "green"), ("stands still", "red")),
    ),
    chart(
        "Consumed",
        "Records a second whose effect is committed.",
        units.EventsPerSecond,
        (rate("driftloop_consumed_total", "job, topic"), "{{job}}: {{topic}}"),
    ),
    chart(
        "Time of a batch",
        "To handle and commit it, for 99 of 100.",
        units.Seconds,
        (quantile(0.99, "driftloop_batch_seconds", by="le, group", matchers=""), "{{group}}"),
    ),
    chart(
        "Tried again, fenced, duplicate",
        "Batches that met a transient error, batches that another owned, and records that had been counted before.",
        units.EventsPerSecond,
        (rate("driftloop_consumer_retries_total", "group"), "{{group}}: tried again"),
        (rate("driftloop_consumer_fenced_total", "job, topic"), "{{job}}: fenced on {{topic}}"),
        (rate("driftloop_duplicates_total", "job, topic"), "{{job}}: duplicate of {{topic}}"),
    ),
    chart(
        "Dead letters",
        "Records in the last hour that could not be handled, by the stage that failed.",
        units.Short,
        (
            "sum by (job, topic, reason) (increase(driftloop_dead_letters_total[1h]))",
            "{{job}}: {{topic}}, {{reason}}",
        ),
        limits=[(1, WARNING)],
    ),
    chart(
        "Outbox",
        "Rows that are committed and wait to be published.",
        units.Short,
        ("max by (job, shard) (driftloop_outbox_rows)", "{{job}}, shard {{shard}}"),
    ),
    chart(
        "Outbox, oldest",
        "How long the oldest of them has waited.",
        units.Seconds,
        ("max by (job, shard) (driftloop_outbox_oldest_seconds)", "{{job}}, shard {{shard}}"),
        limits=[(60, WARNING)],
    ),
    chart(
        "Produced",
        "Records a second that the broker confirmed, and those that it did not.",
        units.EventsPerSecond,
        (rate("driftloop_produced_total", "job, topic"), "{{job}}: {{topic}}"),
        (rate("driftloop_produce_failed_total", "job, topic"), "{{job}}: failed, {{topic}}"),
    ),
    chart(
        "Spool",
        "How full each predictor's spool is.",
        units.PercentUnit,
        ("driftloop_spool_bytes / driftloop_spool_capacity_bytes", "{{instance}} {{spool}}"),
        limits=[(0.05, WARNING), (0.8, CRITICAL)],
        most=1,
    ),
    chart(
        "Spool, oldest",
        "How long the oldest inference in it has waited for the broker.",
        units.Seconds,
        ("driftloop_spool_oldest_seconds", "{{instance}} {{spool}}"),
        limits=[(600, WARNING)],
    ),
    chart(
        "Spool, records",
        "Inferences that wait for the broker, and damaged places.",
        units.Short,
        ("driftloop_spool_records", "{{instance}} {{spool}}"),
        ("driftloop_spool_damaged", "{{instance}} {{spool}}: damaged"),
    ),
    chart(
        "Parked",
        "Outcomes that wait for their prediction, and records of a version whose profile is unknown.",
        units.Short,
        ("max(driftloop_parked_outcomes)", "outcomes"),
        ("max(driftloop_parked_predictions)", "records"),
    ),
    chart(
        "Oldest parked outcome",
        "After 90 days, by default, it expires.",
        units.Seconds,
        ("max(driftloop_oldest_parked_outcome_seconds)", "oldest"),
        limits=[(45 * 86400, WARNING)],
    ),
    chart(
        "Expired, and too old",
        "In the last hour: outcomes without a prediction, records of an unknown version, and events older "
        "than any pane.",
        units.Short,
        ("sum(increase(driftloop_expired_outcomes_total[1h]))", "outcomes"),
        ("sum(increase(driftloop_expired_predictions_total[1h]))", "records"),
        ("sum by (kind) (increase(driftloop_beyond_retention_total[1h]))", "{{kind}}, too old"),
        limits=[(1, WARNING)],
    ),
    chart(
        "Outcomes",
        "A second, by what became of them.",
        units.EventsPerSecond,
        (rate("driftloop_outcomes_total", "status"), "{{status}}"),
    ),
    chart(
        "Watermark",
        "How long ago the instant is before which all predictions are counted.",
        units.Seconds,
        ("max by (model_name) (driftloop_watermark_lag_seconds)", "{{model_name}}"),
        limits=[(900, WARNING)],
    ),
)

BOARD = board(
    "pipeline",
    "Pipeline",
    "Whether everything that was said is counted, and what waits where.",
    models_of=None,
    panels=PANELS,
)
