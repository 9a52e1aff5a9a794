"""Which versions there are, which serve, and what became of retrainings."""

from grafana_foundation_sdk.models import units

from deploy.grafana.expressions import MODEL, VERSION, of_model, rate
from deploy.grafana.panels import WARNING, board, chart, figure, steps

PANELS = (
    figure(
        "Champion",
        "The version that should serve.",
        units.Short,
        (of_model("driftloop_champion_version"), "version"),
    ),
    figure(
        "Age of the champion",
        "Time since it was made. After half a year somebody is told.",
        units.Seconds,
        (of_model("driftloop_champion_age_seconds"), "age"),
        limits=[(180 * 86400, WARNING)],
    ),
    figure(
        "Canary",
        "The version that is tried on live requests; none where there is no roll-out.",
        units.Short,
        (of_model("driftloop_canary_version"), "version"),
    ),
    figure(
        "Canary's share",
        "The share of requests that it answers.",
        units.PercentUnit,
        (of_model("driftloop_canary_weight"), "share"),
    ),
    figure(
        "Labels compared",
        "Labelled requests on which champion and canary were compared; about 500 decide.",
        units.Short,
        (of_model("driftloop_rollout_labels"), "labels"),
    ),
    figure(
        "Versions kept",
        "Versions whose files are there.",
        units.Short,
        (of_model("driftloop_versions_kept"), "versions"),
    ),
    steps(
        "Champion and canary",
        "What the trainer wants to serve.",
        (of_model("driftloop_champion_version"), "champion"),
        (of_model("driftloop_canary_version"), "canary"),
    ),
    steps(
        "Served by replica",
        "The champion's version that each replica has applied.",
        (f"driftloop_model_version{{{MODEL}}}", "{{instance}}"),
    ),
    steps(
        "Revision by replica",
        "The serving state that each replica has applied: they differ for seconds.",
        (f"driftloop_model_revision{{{MODEL}}}", "{{instance}}"),
    ),
    chart(
        "Answers by version",
        "Requests a second that each champion answered.",
        units.RequestsPerSecond,
        (rate("driftloop_predictions_total", "model_version", MODEL), VERSION),
    ),
    chart(
        "Roll-out",
        "The canary's share, step by step.",
        units.PercentUnit,
        (of_model("driftloop_canary_weight"), "share"),
        most=1,
    ),
    chart(
        "Labels compared over time",
        "Labelled requests on which champion and canary were compared.",
        units.Short,
        (of_model("driftloop_rollout_labels"), "labels"),
    ),
    chart(
        "Open retraining",
        "How long it has been in its state.",
        units.Seconds,
        (f"max by (state) (driftloop_retraining_state_seconds{{{MODEL}}})", "{{state}}"),
    ),
    chart(
        "Labels that it lacks",
        "Labelled rows that the open request still waits for.",
        units.Short,
        (of_model("driftloop_retrain_waiting_rows"), "missing labels"),
    ),
    steps(
        "Retrainings",
        "Finished since the trainer started, by decision.",
        (f"sum by (decision) (driftloop_retrainings_total{{{MODEL}}})", "{{decision}}"),
    ),
    chart(
        "Failed trainings",
        "In the last hour, by the kind of failure.",
        units.Short,
        (f"sum by (kind) (increase(driftloop_trainings_failed_total{{{MODEL}}}[1h]))", "{{kind}}"),
        limits=[(1, WARNING)],
    ),
    chart(
        "Refused and failing",
        "In the last hour: serving states that replicas refused, by reason, and rows for which a shadow "
        "gave no probability.",
        units.Short,
        (
            f"sum by (reason) (increase(driftloop_model_updates_refused_total{{{MODEL}}}[1h]))",
            "refused: {{reason}}",
        ),
        (
            f"sum by (model_version) (increase(driftloop_shadows_failed_total{{{MODEL}}}[1h]))",
            "no probability: " + VERSION,
        ),
        limits=[(1, WARNING)],
    ),
    chart(
        "Left to delete",
        "Versions that nobody needs, and training sets of erased patients, whose files are still there.",
        units.Short,
        (of_model("driftloop_versions_undeleted"), "versions"),
        (of_model("driftloop_training_sets_unpurged"), "training sets"),
        (of_model("driftloop_training_sets_not_rebuildable"), "sets that cannot be rebuilt"),
        limits=[(1, WARNING)],
    ),
)

BOARD = board(
    "models",
    "Models",
    "Which versions serve, what is tried out, and what became of retrainings.",
    models_of="driftloop_champion_version",
    panels=PANELS,
)
