"""Every metric, named once. Base units, `_total` for counters; never an identifier of a patient or a request."""

from prometheus_client import Counter, Gauge, Histogram

PREDICTIONS = Counter(
    "driftloop_predictions_total", "Requests to predict, by result.", ["model_name", "model_version", "result"]
)
PREDICTION_SECONDS = Histogram(
    "driftloop_prediction_seconds",
    "Time from a request's arrival to its answer, the durable log included.",
    ["model_name"],
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.3, 1, 5),
)
MODEL_REVISION = Gauge("driftloop_model_revision", "The serving revision that this replica applied.", ["model_name"])
MODEL_VERSION = Gauge("driftloop_model_version", "The champion's version that this replica serves.", ["model_name"])
MODEL_REFUSED = Counter(
    "driftloop_model_updates_refused_total", "Serving states that this replica refused.", ["model_name", "reason"]
)

CONSUMED = Counter("driftloop_consumed_total", "Records whose effect is committed.", ["topic"])
DUPLICATES = Counter("driftloop_duplicates_total", "Records that had been counted before.", ["topic"])
DEAD_LETTERS = Counter("driftloop_dead_letters_total", "Records sent to a dead-letter topic.", ["topic", "reason"])
CONSUMER_RETRIES = Counter(
    "driftloop_consumer_retries_total", "Batches tried again after a transient error.", ["group"]
)
CONSUMER_FENCED = Counter("driftloop_consumer_fenced_total", "Batches dropped because another owned them.", ["topic"])
BATCH_SECONDS = Histogram("driftloop_batch_seconds", "Time to handle and commit one batch.", ["group"])
PRODUCED = Counter("driftloop_produced_total", "Records acknowledged by the broker.", ["topic"])
PRODUCE_FAILED = Counter("driftloop_produce_failed_total", "Records that the broker did not acknowledge.", ["topic"])
OUTBOX_ROWS = Gauge("driftloop_outbox_rows", "Rows that wait to be published.", ["shard"])

OUTCOMES = Counter("driftloop_outcomes_total", "Outcomes, by what became of them.", ["status"])
LABEL_DELAY = Histogram(
    "driftloop_label_delay_seconds",
    "Time from a prediction to its label.",
    ["model_name"],
    buckets=(1, 60, 3600, 86400, 7 * 86400, 30 * 86400, 90 * 86400),
)

DRIFT_VERDICT = Gauge(
    "driftloop_drift_verdict",
    "0 GOOD, 1 WARNING, 2 CRITICAL: the alarm policy's verdict.",
    ["model_name", "model_version"],
)
FEATURE_D = Gauge(
    "driftloop_feature_ks_statistic", "KS statistic of the last window.", ["model_name", "model_version", "feature"]
)
FEATURE_PSI = Gauge("driftloop_feature_psi", "PSI of the last window.", ["model_name", "model_version", "feature"])
REALISED_ACCURACY = Gauge("driftloop_realised_accuracy", "Accuracy on labelled rows.", ["model_name", "model_version"])
PARKED_PREDICTIONS = Gauge("driftloop_parked_predictions", "Predictions of a version whose profile is unknown yet.", [])
LATE_PREDICTIONS = Counter("driftloop_late_predictions_total", "Predictions whose window had closed.", ["model_name"])

RETRAININGS = Counter("driftloop_retrainings_total", "Finished retrainings, by decision.", ["model_name", "decision"])
RETRAIN_WAITING = Gauge("driftloop_retrain_waiting_rows", "Labelled rows that a request still lacks.", ["model_name"])
CHAMPION_VERSION = Gauge("driftloop_champion_version", "The version that should serve.", ["model_name"])
