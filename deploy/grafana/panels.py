"""What all dashboards are made of: panels that say what they show, in which unit and against which limits."""

from collections.abc import Sequence
from string import ascii_uppercase

from grafana_foundation_sdk.builders import common as common_builders
from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.builders import heatmap, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import common, units
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from deploy.grafana.expressions import MODEL

# A template variable stands for the data source.
SOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
RUNBOOKS = "https://driftloop.example/docs/operations.md#runbooks"
WIDTH, HEIGHT = 8, 8
STAT_WIDTH, STAT_HEIGHT = 4, 4

# An expression, and what its series are called.
Query = tuple[str, str]
# From this value on this colour; what is below all of them is green.
Limits = Sequence[tuple[float, str]]
GOOD, WARNING, CRITICAL = "green", "orange", "red"
# Looked at for two minutes a minute: a change between two looks is in one of them.
CHANGED_CHAMPION = f"changes(max by (model_name) (driftloop_champion_version{{{MODEL}}})[2m:15s]) > 0"
SEVERITIES = (("GOOD", GOOD), ("WARNING", WARNING), ("CRITICAL", CRITICAL))


def chart(
    title: str,
    description: str,
    unit: str,
    *queries: Query,
    limits: Limits = (),
    width: int = WIDTH,
    most: float | None = None,
) -> timeseries.Panel:
    """A chart over time, from 0; limits are lines. `most` is the top of its axis where it has one."""
    panel = (
        timeseries.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit(unit)
        .span(width)
        .height(HEIGHT)
        .min(0)
        .line_width(2)
        .fill_opacity(8)
        .show_points(common.VisibilityMode.NEVER)
        .legend(
            common_builders.VizLegendOptions()
            .display_mode(common.LegendDisplayMode.LIST)
            .placement(common.LegendPlacement.BOTTOM)
            .show_legend(True)
        )
        .tooltip(
            common_builders.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI).sort(common.SortOrder.DESCENDING)
        )
        .thresholds(_thresholds(limits))
        .thresholds_style(
            common_builders.GraphThresholdsStyleConfig().mode(
                common.GraphThresholdsStyleMode.DASHED if limits else common.GraphThresholdsStyleMode.OFF
            )
        )
    )
    if most is not None:
        panel.max(most)
    for name, query in zip(ascii_uppercase, queries, strict=False):
        panel.with_target(_target(*query).ref_id(name))
    return panel


def steps(title: str, description: str, *queries: Query, names: Sequence[tuple[str, str]] = ()) -> timeseries.Panel:
    """A chart of numbers that jump: versions, revisions, severities; these may have names and colours."""
    panel = (
        chart(
            title, description, units.Short, *queries, limits=[(place, name[1]) for place, name in enumerate(names)][1:]
        )
        .line_interpolation(common.LineInterpolation.STEP_AFTER)
        .fill_opacity(0)
        .decimals(0)
    )
    return panel.mappings([_mapping(names)]).max(len(names) - 1) if names else panel


def figure(
    title: str,
    description: str,
    unit: str,
    query: Query,
    *,
    limits: Limits = (),
    names: Sequence[tuple[str, str]] = (),
    width: int = STAT_WIDTH,
) -> stat.Panel:
    """One number, large, before its own course over time."""
    panel = (
        stat.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit(unit)
        .span(width)
        .height(STAT_HEIGHT)
        .graph_mode(common.BigValueGraphMode.AREA)
        .color_mode(common.BigValueColorMode.VALUE)
        .reduce_options(common_builders.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
        .thresholds(_thresholds(limits))
        .no_value("none")
        .with_target(_target(*query).ref_id("A"))
    )
    return panel.mappings([_mapping(names)]) if names else panel


def heat_map(title: str, description: str, unit: str, query: Query, *, buckets: bool = False) -> heatmap.Panel:
    """A row a series, in the order of their names; with `buckets` those of a histogram, in their own."""
    shape = PromQueryFormat.HEATMAP if buckets else PromQueryFormat.TIME_SERIES
    return (
        heatmap.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit(unit)
        .span(WIDTH)
        .height(HEIGHT)
        .calculate(False)
        .cell_gap(1)
        .y_axis(heatmap.YAxisConfig().unit(unit if buckets else units.Short))
        .cell_values(heatmap.CellValues().unit(units.Short if buckets else unit))
        .color(
            heatmap.HeatmapColorOptions()
            .mode(HeatmapColorMode.SCHEME)
            .scheme("Oranges")
            .fill("dark-orange")
            .exponent(0.5)
            .steps(64)
        )
        .show_legend()
        .thresholds(_thresholds(()))
        .with_target(_target(*query).ref_id("A").format(shape))
    )


def event(name: str, expression: str, color: str) -> builders.AnnotationQuery:
    """Lines across all charts wherever an expression has a value."""
    return builders.AnnotationQuery().name(name).datasource(SOURCE).enable(True).icon_color(color).expr(expression)


def board(
    uid: str,
    title: str,
    description: str,
    *,
    models_of: str | None,
    panels: Sequence[Builder[models.Panel] | builders.Row],
    variables: Sequence[builders.QueryVariable] = (),
    annotations: Sequence[builders.AnnotationQuery] = (),
) -> models.Dashboard:
    """A dashboard, linked to all others; `models_of` is the metric whose models can be chosen, None where none can."""
    made = (
        builders.Dashboard(f"Driftloop / {title}")
        .uid(f"driftloop-{uid}")
        .description(description)
        .tags(["driftloop"])
        .readonly()
        .timezone("browser")
        .time("now-6h", "now")
        .refresh("30s")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .link(
            builders.DashboardLink("Driftloop")
            .type(models.DashboardLinkType.DASHBOARDS)
            .tags(["driftloop"])
            .include_vars(True)
            .keep_time(True)
        )
        .link(builders.DashboardLink("Runbooks").type(models.DashboardLinkType.LINK).url(RUNBOOKS).target_blank(True))
        .with_variable(builders.DatasourceVariable("datasource").label("Data source").type("prometheus"))
    )
    if models_of is not None:
        made.with_variable(choice("model_name", "Model", f"label_values({models_of}, model_name)"))
        made.annotation(event("Promotions and roll-backs", CHANGED_CHAMPION, "blue"))
    for variable in variables:
        made.with_variable(variable)
    for annotation in annotations:
        made.annotation(annotation)
    for panel in panels:
        if isinstance(panel, builders.Row):
            made.with_row(panel)
        else:
            made.with_panel(panel)
    return made.build()


def choice(name: str, label: str, query: str, *, many: bool = False) -> builders.QueryVariable:
    """A variable whose values are those of a label."""
    made = (
        builders.QueryVariable(name)
        .label(label)
        .datasource(SOURCE)
        .query({"query": query, "refId": name})
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
    )
    if many:
        made.multi(True).include_all(True).current(models.VariableOption(text="All", value="$__all", selected=True))
    return made


def _target(expression: str, legend: str) -> prometheus.Dataquery:
    return prometheus.Dataquery().datasource(SOURCE).expr(expression).legend_format(legend).range()


def _thresholds(limits: Limits) -> builders.ThresholdsConfig:
    found = [models.Threshold(value=None, color=GOOD), *(models.Threshold(value, color) for value, color in limits)]
    return builders.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(found)


def _mapping(names: Sequence[tuple[str, str]]) -> models.ValueMap:
    results = enumerate(models.ValueMappingResult(text=text, color=color) for text, color in names)
    return models.ValueMap({str(value): result for value, result in results})
