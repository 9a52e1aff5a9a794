"""The expressions that dashboards have in common.

Gauges that one replica shows, or that all show alike, are taken by `max`: a handover shows no gap, and nothing twice.
"""

# A template variable stands for the model, so that one dashboard serves all of them.
MODEL = 'model_name="$model_name"'
JOBS = 'job=~"predictor|label-ingest|drift-monitor|trainer"'
# What the rules of deploy/prometheus allow of requests in 30 days: failed ones, and slow ones.
SLO, SLOW = 0.001, 0.01
# How series of a version are called.
VERSION = "version {{model_version}}"


def of_version(metric: str, *matchers: str) -> str:
    """A gauge of the monitor, by version."""
    return f"max by (model_version) ({metric}{{{', '.join([MODEL, *matchers])}}})"


def of_feature(metric: str) -> str:
    """A gauge of the monitor for the chosen features, by version."""
    return f'max by (feature, model_version) ({metric}{{{MODEL}, feature=~"$feature"}})'


def of_model(metric: str) -> str:
    """A gauge of the trainer."""
    return f"max by (model_name) ({metric}{{{MODEL}}})"


def accuracy(metric: str, name: str, figure: str = "accuracy") -> tuple[str, str]:
    """One of the figures that performance is told in, and what its series are called."""
    return of_version(metric, f'figure="{figure}"'), f"{name}, {VERSION}"


def quantile(share: float, histogram: str, by: str = "le", matchers: str = MODEL) -> str:
    """A quantile of a histogram over the chart's interval."""
    return f"histogram_quantile({share}, sum by ({by}) (rate({histogram}_bucket{{{matchers}}}[$__rate_interval])))"


def rate(counter: str, by: str, matchers: str = "") -> str:
    """How often a second, over the chart's interval."""
    return f"sum by ({by}) (rate({counter}{{{matchers}}}[$__rate_interval]))"
