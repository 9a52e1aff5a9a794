"""What has changed in the inputs, feature by feature."""

from grafana_foundation_sdk.builders import common as common_builders
from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.models import common, units

from deploy.grafana.expressions import MODEL, VERSION, of_feature, of_version
from deploy.grafana.panels import CRITICAL, SEVERITIES, WARNING, board, chart, choice, event, heat_map, steps

BINS = f'max by (bin) (%s{{{MODEL}, feature="$feature", model_version="$model_version"}})'
PANELS = (
    steps(
        "Verdict",
        "The alarm policy's word on each version.",
        (of_version("driftloop_drift_verdict"), VERSION),
        names=SEVERITIES,
    ),
    steps(
        "Alarms of the features",
        "A feature's alarm needs windows in a row: two CRITICAL ones, or three of WARNING or worse.",
        (of_feature("driftloop_feature_severity"), "{{feature}}, " + VERSION),
        names=SEVERITIES,
    ),
    steps(
        "Other alarms",
        "Data quality, concept and performance have strict tests of their own.",
        (f"max by (signal, model_version) (driftloop_signal_severity{{{MODEL}}})", "{{signal}}, " + VERSION),
        names=SEVERITIES,
    ),
    chart(
        "D",
        "The KS statistic of the last window (of a category: total variation). A WARNING alarm needs 0.08 "
        "of it, or PSI.",
        units.Short,
        (of_feature("driftloop_feature_ks_statistic"), "{{feature}}, " + VERSION),
        limits=[(0.08, WARNING)],
        most=1,
    ),
    chart(
        "p",
        "p of the KS or chi-square test of the last window, on a logarithmic axis. Below 0.05 it is significant.",
        units.Short,
        (of_feature("driftloop_feature_p_value"), "{{feature}}, " + VERSION),
        limits=[(0.05, WARNING)],
        most=1,
    )
    .min(1e-12)
    .scale_distribution(common_builders.ScaleDistributionConfig().type(common.ScaleDistribution.LOG).log(10)),
    chart(
        "PSI",
        "The population stability index of the last window: WARNING from 0.1, CRITICAL from 0.2. Quiet: what "
        "unchanged data exceed in one window of twenty.",
        units.Short,
        (of_feature("driftloop_feature_psi"), "{{feature}}, " + VERSION),
        (of_feature("driftloop_feature_psi_critical"), "{{feature}}, quiet"),
        limits=[(0.1, WARNING), (0.2, CRITICAL)],
    ),
    chart(
        "Missing",
        "Share of the last window's rows that had no value.",
        units.PercentUnit,
        (
            f"{of_feature('driftloop_feature_missing_rows')} / ({of_feature('driftloop_feature_missing_rows')} + "
            f"{of_feature('driftloop_feature_rows')})",
            "{{feature}}, " + VERSION,
        ),
        most=1,
    ),
    chart(
        "Rows of the last window",
        "How many rows were judged; a window closes at `min_samples` or by its age.",
        units.Short,
        (of_version("driftloop_window_rows"), VERSION),
        (of_version("driftloop_late_predictions"), "late, " + VERSION),
    ),
    chart(
        "Concept",
        "Chi-square of realised against estimated errors; above 9.2 concept drift is declared.",
        units.Short,
        (of_version("driftloop_concept_statistic"), VERSION),
        limits=[(9.21, CRITICAL)],
    ),
    builders.Row("Distributions of $feature: the window above, the reference below").repeat("feature"),
    heat_map(
        "$feature",
        "Share of the window's rows in each of PSI's bins, over time.",
        units.PercentUnit,
        (BINS % "driftloop_feature_bin_share", "{{bin}}"),
    ).span(12),
    heat_map(
        "$feature, reference",
        "Share of the reference's rows in the same bins: the population that the version was last proven on.",
        units.PercentUnit,
        (BINS % "driftloop_feature_reference_share", "{{bin}}"),
    ).span(12),
)

BOARD = board(
    "drift",
    "Drift",
    "What has changed, feature by feature, since the version was accepted.",
    models_of="driftloop_drift_verdict",
    panels=PANELS,
    variables=[
        choice("model_version", "Version", f"label_values(driftloop_feature_psi{{{MODEL}}}, model_version)"),
        choice("feature", "Feature", f"label_values(driftloop_feature_psi{{{MODEL}}}, feature)", many=True),
    ],
    annotations=[
        event(
            "CRITICAL",
            f"max by (model_version) (driftloop_drift_verdict{{{MODEL}}}) == 2 unless "
            f"max by (model_version) (driftloop_drift_verdict{{{MODEL}}} offset 1m) == 2",
            "red",
        )
    ],
)
