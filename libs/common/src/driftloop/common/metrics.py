"""Every metric, named once. Base units, `_total` for counters; never an identifier of a patient or a request."""

from collections.abc import Sequence
from itertools import product

from prometheus_client import Counter, Gauge, Histogram

BUILD_INFO = Gauge(
    "driftloop_build_info",
    "1: the version that runs, and the revision of the source that it was built from.",
    ["version", "revision"],
    multiprocess_mode="livemax",
)

# The service's errors are `unavailable` (503) and `failed` (500); `invalid` (4xx) is its client's.
PREDICTIONS = Counter(
    "driftloop_predictions_total",
    "Requests to predict, by result: ok, invalid, unavailable, failed.",
    ["model_name", "model_version", "result"],
)
PREDICTION_SECONDS = Histogram(
    "driftloop_prediction_seconds",
    "Time from a request's arrival to its answer, the durable log included.",
    ["model_name"],
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.3, 1, 5),
)
MODEL_REVISION = Gauge(
    "driftloop_model_revision",
    "The serving revision that this replica applied.",
    ["model_name"],
    multiprocess_mode="livemin",
)
MODEL_VERSION = Gauge(
    "driftloop_model_version",
    "The champion's version that this replica serves.",
    ["model_name"],
    multiprocess_mode="livemin",
)
MODEL_REFUSED = Counter(
    "driftloop_model_updates_refused_total", "Serving states that this replica refused.", ["model_name", "reason"]
)

INFERENCES_SENT = Counter("driftloop_inferences_sent_total", "Inferences that the broker has confirmed in time.")
INFERENCES_SPOOLED = Counter("driftloop_inferences_spooled_total", "Inferences that went to the spool instead.")
INFERENCES_REPLAYED = Counter("driftloop_inferences_replayed_total", "Inferences that the broker took from the spool.")
INFERENCES_REJECTED = Counter(
    "driftloop_inferences_rejected_total", "Inferences that could not be kept: their requests were answered 503."
)
INFERENCE_DELIVERY = Histogram(
    "driftloop_inference_delivery_seconds",
    "Time until a request's inferences were durable, in the log or in the spool.",
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.3, 0.4, 1),
)
SPOOL_BYTES = Gauge(
    "driftloop_spool_bytes", "Bytes that a spool takes on its volume.", ["spool"], multiprocess_mode="livesum"
)
SPOOL_CAPACITY = Gauge(
    "driftloop_spool_capacity_bytes",
    "Bytes that a spool may take: what does not fit is refused.",
    ["spool"],
    multiprocess_mode="livesum",
)
SPOOL_RECORDS = Gauge(
    "driftloop_spool_records", "Inferences in a spool that wait for the broker.", ["spool"], multiprocess_mode="livesum"
)
SPOOL_OLDEST = Gauge(
    "driftloop_spool_oldest_seconds",
    "Age of the oldest inference in a spool, 0 if empty.",
    ["spool"],
    multiprocess_mode="livesum",
)
SPOOL_DAMAGED = Gauge(
    "driftloop_spool_damaged", "Damaged places that were found in a spool.", ["spool"], multiprocess_mode="livesum"
)
SHADOWS_FAILED = Counter(
    "driftloop_shadows_failed_total",
    "Rows that a version beside the answering one gave no probability for.",
    ["model_name", "model_version"],
)

ACCESS_REFUSED = Counter("driftloop_access_refused_total", "Requests refused at the door, by reason.", ["reason"])

CONSUMED = Counter("driftloop_consumed_total", "Records whose effect is committed.", ["topic"])
DUPLICATES = Counter("driftloop_duplicates_total", "Records that had been counted before.", ["topic"])
DEAD_LETTERS = Counter("driftloop_dead_letters_total", "Records sent to a dead-letter topic.", ["topic", "reason"])
CONSUMER_RETRIES = Counter(
    "driftloop_consumer_retries_total", "Batches tried again after a transient error.", ["group"]
)
CONSUMER_LAG = Gauge(
    "driftloop_consumer_lag_records",
    "Records of the partitions that this replica holds whose effect is not committed.",
    ["group", "topic"],
)
CONSUMER_STOPPED = Gauge(
    "driftloop_consumer_stopped", "1 where a consumer stands still until someone decides, else 0.", ["group"]
)
CONSUMER_FENCED = Counter("driftloop_consumer_fenced_total", "Batches dropped because another owned them.", ["topic"])
BATCH_SECONDS = Histogram("driftloop_batch_seconds", "Time to handle and commit one batch.", ["group"])
PRODUCED = Counter("driftloop_produced_total", "Records acknowledged by the broker.", ["topic"])
PRODUCE_FAILED = Counter("driftloop_produce_failed_total", "Records that the broker did not acknowledge.", ["topic"])
OUTBOX_ROWS = Gauge("driftloop_outbox_rows", "Rows that wait to be published.", ["shard"])
OUTBOX_OLDEST = Gauge("driftloop_outbox_oldest_seconds", "Age of the oldest of them, 0 if there is none.", ["shard"])

OUTCOMES = Counter("driftloop_outcomes_total", "Outcomes, by what became of them.", ["status"])
PARKED_OUTCOMES = Gauge("driftloop_parked_outcomes", "Outcomes that wait for their prediction.")
OLDEST_PARKED_OUTCOME = Gauge("driftloop_oldest_parked_outcome_seconds", "How long the oldest of them has waited.")
EXPIRED_OUTCOMES = Counter(
    "driftloop_expired_outcomes_total", "Outcomes whose prediction did not come in time: in table expired_results."
)
LABELS_RETRACTED = Counter("driftloop_labels_retracted_total", "Labels taken back without another in their place.")
SUBJECTS_ERASED = Counter("driftloop_subjects_erased_total", "Patients whose rows were erased.")
MLLP_MESSAGES = Counter("driftloop_mllp_messages_total", "HL7 v2 messages, by what was answered.", ["acknowledgement"])
MLLP_CONNECTIONS = Gauge("driftloop_mllp_connections", "Open connections of laboratories that send HL7 v2.")
MLLP_REFUSED = Counter("driftloop_mllp_connections_refused_total", "Connections refused because there were too many.")
MLLP_BROKEN_FRAMES = Counter(
    "driftloop_mllp_broken_frames_total", "Connections closed on a frame that nothing was taken of.", ["reason"]
)
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
_FEATURE = ["model_name", "model_version", "feature"]
_VERSION = ["model_name", "model_version"]
FEATURE_SEVERITY = Gauge("driftloop_feature_severity", "0 GOOD, 1 WARNING, 2 CRITICAL: the feature's alarm.", _FEATURE)
FEATURE_D = Gauge("driftloop_feature_ks_statistic", "KS statistic of the last window.", _FEATURE)
FEATURE_P = Gauge("driftloop_feature_p_value", "p of the KS or chi-square test of the last window.", _FEATURE)
FEATURE_PSI = Gauge("driftloop_feature_psi", "PSI of the last window.", _FEATURE)
FEATURE_PSI_CRITICAL = Gauge(
    "driftloop_feature_psi_critical", "The PSI that unchanged data exceed in one window of twenty.", _FEATURE
)
FEATURE_BIN_SHARE = Gauge(
    "driftloop_feature_bin_share",
    "Share of the last window's rows in one of the bins that PSI has.",
    [*_FEATURE, "bin"],
)
FEATURE_REFERENCE_SHARE = Gauge(
    "driftloop_feature_reference_share", "Share of the reference's rows in the same bin.", [*_FEATURE, "bin"]
)
FEATURE_ROWS = Gauge("driftloop_feature_rows", "Rows of the last window that had a value.", _FEATURE)
FEATURE_MISSING = Gauge("driftloop_feature_missing_rows", "Rows of the last window that had none.", _FEATURE)
SIGNAL_SEVERITY = Gauge(
    "driftloop_signal_severity",
    "0 GOOD, 1 WARNING, 2 CRITICAL: the alarms of quality, concept and performance.",
    [*_VERSION, "signal"],
)
WINDOW_ROWS = Gauge("driftloop_window_rows", "Rows of the last window.", _VERSION)
WATERMARK_LAG = Gauge(
    "driftloop_watermark_lag_seconds", "How long ago the instant is before which all is counted.", ["model_name"]
)
ESTIMATED_PERFORMANCE = Gauge(
    "driftloop_estimated_performance", "Figures of the last window, estimated without labels.", [*_VERSION, "figure"]
)
HELDOUT_PERFORMANCE = Gauge(
    "driftloop_heldout_performance",
    "Figures of the version on the rows that its training never touched.",
    [*_VERSION, "figure"],
)
REALISED_PERFORMANCE = Gauge(
    "driftloop_realised_performance", "Figures of the last window of labelled rows.", [*_VERSION, "figure"]
)
LABEL_COVERAGE = Gauge("driftloop_label_coverage", "Share of that window's rows that are labelled.", _VERSION)
INTERVAL_COVERAGE = Gauge(
    "driftloop_prediction_set_coverage", "Share of that window's prediction sets that held the label.", _VERSION
)
CONCEPT_STATISTIC = Gauge(
    "driftloop_concept_statistic", "Chi-square (2 degrees) of realised against estimated errors.", _VERSION
)
PARKED_PREDICTIONS = Gauge("driftloop_parked_predictions", "Records of a version whose profile is unknown yet.", [])
EXPIRED_PREDICTIONS = Counter(
    "driftloop_expired_predictions_total", "Records whose version's profile did not come in time: dead letters.", []
)
LATE_PREDICTIONS = Gauge("driftloop_late_predictions", "Predictions that came after their window had closed.", _VERSION)
BEYOND_RETENTION = Counter(
    "driftloop_beyond_retention_total", "Events older than any pane that is kept: only counted.", ["model_name", "kind"]
)

RETRAININGS = Counter("driftloop_retrainings_total", "Finished retrainings, by decision.", ["model_name", "decision"])
TRAININGS_FAILED = Counter(
    "driftloop_trainings_failed_total", "Trainings that made no challenger, by the kind of failure.",
    ["model_name", "kind"],
)  # fmt: skip
ROLLOUT_LABELS = Gauge(
    "driftloop_rollout_labels", "Labelled requests on which champion and challenger have been compared.", ["model_name"]
)
RETRAIN_WAITING = Gauge("driftloop_retrain_waiting_rows", "Labelled rows that a request still lacks.", ["model_name"])
SETS_NOT_REBUILDABLE = Gauge(
    "driftloop_training_sets_not_rebuildable",
    "Training sets that cannot be rebuilt: a patient was erased, or their rows are not kept.",
    ["model_name"],
)
SETS_UNPURGED = Gauge(
    "driftloop_training_sets_unpurged", "Training sets of these whose file is still to be deleted.", ["model_name"]
)
VERSIONS_KEPT = Gauge("driftloop_versions_kept", "Versions whose files are there.", ["model_name"])
VERSIONS_UNDELETED = Gauge(
    "driftloop_versions_undeleted",
    "Versions of these that nobody needs: their files are to be deleted.",
    ["model_name"],
)
TRACKED_RUNS = Counter(
    "driftloop_tracked_runs_total",
    "Times that an experiment tracker was told of a version, by result: sent, failed, given-up.",
    ["tracker", "result"],
)
TRACKED_WAITING = Gauge(
    "driftloop_tracked_runs_waiting", "Versions that a tracker is still to be told of.", ["tracker"]
)
TRACKED_GIVEN_UP = Gauge(
    "driftloop_tracked_runs_given_up", "Versions that a tracker did not take for too long.", ["tracker"]
)
CHAMPION_VERSION = Gauge("driftloop_champion_version", "The version that should serve.", ["model_name"])
CHAMPION_AGE = Gauge("driftloop_champion_age_seconds", "Time since that version was made.", ["model_name"])
CANARY_VERSION = Gauge("driftloop_canary_version", "The version that is tried on live requests.", ["model_name"])
CANARY_WEIGHT = Gauge("driftloop_canary_weight", "The share of requests that it answers, 0 to 1.", ["model_name"])
RETRAINING_STATE = Gauge(
    "driftloop_retraining_state_seconds",
    "How long the open request for a retraining has been in its state.",
    ["model_name", "state"],
)


def begin(counter: Counter | Histogram, *values: Sequence[str]) -> None:
    """Show the series of every combination of these labels' values before their first event.

    `increase` sees nothing of the event that a series appears with.
    """
    for labels in product(*values):
        counter.labels(*labels)
