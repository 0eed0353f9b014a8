"""The charts of a deployment and of the whole fleet: the page's part, and the series that its script draws."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from django.db.models import Q
from django.http import HttpResponse
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from deployments.models import Deployment, Instance
from deployments.models.instance import InstanceQuerySet
from deployments.views import boards, markers, reads, silence, timerange
from deployments.views.frame import frame
from deployments.views.silence import Silence
from deployments.views.timerange import TimeRange
from panel.accounts.access import requires
from panel.ui import lines
from panel.ui.format import short_moment
from panel.ui.http import SignedInRequest
from panel.ui.live import live
from panel.ui.templatetags import ui

MACHINES = 200
"""The newest machines of a range are put together, at most so many."""


@dataclass(frozen=True, slots=True)
class Board:
    """Charts over one time range."""

    page: str
    """The address of the page that they stand on, without its query."""
    series: str
    """The address of their numbers."""
    shown: TimeRange
    problem: str
    grid: boards.Grid
    charts: tuple[boards.Drawn, ...]
    marks: Sequence[markers.Marker]
    bands: Sequence[markers.Band]
    signs: SafeString
    """The marks and what lasts, as every picture has them behind its lines."""
    silent: Silence | None = None
    """Why no new figures come, on a deployment's own page."""
    presets: Sequence[str] = tuple(timerange.PRESETS)

    @property
    def listed(self) -> SafeString:
        """The marks as a list, the newest first. By hand, as `signs`."""
        row = '<li><span class="small muted tab-num nowrap">{}</span><span><span class="badge {}">{}{}</span> <a id="mark-{}" href="{}">{}</a>{}</span></li>'
        return format_html_join("", row, (
            (ui.at(m.at), m.tone, ui.icon(m.icon, 14), m.word, n, m.url, m.subject, _detail(m.detail))
            for n, m in enumerate(reversed(self.marks), 1)
        ))  # fmt: skip

    @property
    def ticks(self) -> tuple[lines.Tick, ...]:
        return lines.ticks(self.shown.since, self.shown.until)


@requires("deployments.view_deployment")
def metrics(request: SignedInRequest, pk: UUID) -> HttpResponse:
    """The Metrics tab; `?range=1h|6h|24h|7d|30d`, or `?from=…&to=…` in UTC. `#status` polls."""
    now = timezone.now()
    d = reads.get_deployment_or_404(request.user, pk)
    context = frame(request, d, "metrics", now=now) | {"board": of_deployment(request, d)}
    return live(request, "deployments/detail.html", context, fragments=("status",))


@requires("deployments.view_deployment")
def series(request: SignedInRequest, pk: UUID) -> HttpResponse:
    """The numbers of the deployment's charts as JSON, with the parts of the page that change with the range."""
    d = reads.get_deployment_or_404(request.user, pk)
    return _numbers(request, of_deployment(request, d, picture=False))


@requires("deployments.view_deployment")
def fleet_series(request: SignedInRequest) -> HttpResponse:
    """The same for the charts of the Overview."""
    return _numbers(request, of_fleet(request, picture=False))


def of_deployment(request: SignedInRequest, d: Deployment, *, picture: bool = True) -> Board:
    page, numbers = (reverse(name, args=[d.pk]) for name in ("deployment_metrics", "deployment_series"))
    machines = Instance.objects.filter(deployment=d)
    board = _board(request, machines, [d.pk], boards.DEPLOYMENT, page, numbers, picture=picture)
    return replace(board, silent=silence.of(d.current, now=board.shown.now))


def of_fleet(request: SignedInRequest, *, count: int | None = None, picture: bool = True) -> Board:
    """`count`: about how many machines there are, when the page knows it already."""
    page, numbers = reverse("overview"), reverse("fleet_series")
    visible = Deployment.objects.visible_to(request.user).order_by().values("pk")
    machines = Instance.objects.filter(deployment__in=visible)
    return _board(request, machines, visible, boards.FLEET, page, numbers, count=count, picture=picture)


def _board(
    request: SignedInRequest, machines: InstanceQuerySet, deployments: markers.Deployments,
    charts: Sequence[boards.Chart], page: str, numbers: str, *, picture: bool, count: int | None = None,
) -> Board:  # fmt: skip
    shown, problem = timerange.read(request.GET.dict(), now=timezone.now())
    stood = machines.filter(Q(ended_at=None) | Q(ended_at__gt=shown.since), created_at__lt=shown.until)
    points = boards.PICTURE if picture else boards.POINTS
    newest = stood.order_by("-created_at").values_list("pk", flat=True)[:MACHINES]
    ids = list(newest) if count is None else newest
    grid = boards.load(ids, charts, shown, points=points, count=count and min(count, MACHINES))
    drawn = tuple(boards.draw(chart, grid, shown, picture=picture) for chart in charts)
    marks = markers.of(deployments, shown)
    bands = markers.bands(marks, shown)
    signs = _signs(marks, bands) if picture else SafeString("")
    return Board(page, numbers, shown, problem, grid, drawn, marks, bands, signs)


def _detail(text: str) -> str:
    return format_html('<span class="sub wrap-any">{}</span>', text) if text else ""


def _signs(marks: Sequence[markers.Marker], bands: Sequence[markers.Band]) -> SafeString:
    """By hand: a template takes ten times as long for a hundred marks, and there are four pictures and more."""
    lasts = '<rect class="lasts {}" x="{}" y="15.5" width="{}" height="120"/>'
    mark = '<line class="mark {}" x1="{}" x2="{}" y1="15.5" y2="{}"><title>{}, {}</title></line>'
    foot = lines.TOP + boards.HEIGHT
    return format_html_join("", lasts, ((b.tone, b.x, b.width) for b in bands)) + format_html_join(
        "", mark, ((m.tone, m.x, m.x, foot, m.word, short_moment(m.at)) for m in marks)
    )


def _numbers(request: SignedInRequest, board: Board) -> HttpResponse:
    html = {
        "board-bar": _part(request, "board_bar", board),
        "board-marks": _part(request, "board_marks", board),
        "board-silence": _part(request, "board_silence", board),
    }
    for c in board.charts:
        html[f"legend-{c.chart.key}"] = _part(request, "chart_legend", board, c)
        html[f"table-{c.chart.key}-rows"] = _part(request, "chart_table", board, c)
    grid, shown = board.grid, board.shown
    told = {
        "since": shown.since.timestamp(),
        "until": shown.until.timestamp(),
        "query": shown.query,
        "preset": shown.preset,
        "step": grid.step,
        "at": grid.at,
        "marks": [_mark(m) for m in board.marks],
        "bands": [
            {"since": b.since.timestamp(), "until": b.until.timestamp(), "tone": b.tone} for b in board.bands
        ],
        "html": html,
    }
    columns = ",".join(f"{json.dumps(key)}:{_column(values)}" for key, values in grid.columns.items())
    text = f'{json.dumps(told)[:-1]}, "series": {{{columns}}}}}'
    response = HttpResponse(text, content_type="application/json")
    response["Cache-Control"] = "private, no-store"
    return response


def _column(values: Sequence[float | None]) -> str:
    """As JSON. Five digits are more than a chart shows, and a third of the bytes."""
    return f"[{','.join('null' if v is None else f'{v:.5g}' for v in values)}]"


def _mark(m: markers.Marker) -> dict[str, Any]:
    until = m.until and m.until.timestamp()
    return {"at": m.at.timestamp(), "until": until, "tone": m.tone, "word": m.word}


def _part(request: SignedInRequest, name: str, board: Board, c: boards.Drawn | None = None) -> str:
    context = {"board": board, "c": c, "now": board.shown.now}
    return render_to_string(f"deployments/_board.html#{name}", context, request)
