"""Downloads of the ledger: FOCUS 1.2, and the panel's own tables as CSV and JSON. Each one is audited."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponseBase
from django.shortcuts import redirect
from django.utils import timezone
from django.views.decorators.http import require_safe

from billing.exports import focus
from billing.exports.lines import BadSelection, Selection, read
from billing.exports.tables import TABLES, Table, as_json
from panel.accounts.access import requires
from panel.audit import chain
from panel.throttle import few_exports
from panel.ui.csvfile import csv_response, download
from panel.ui.http import SignedInRequest

type View = Callable[..., HttpResponseBase]


def _explained(view: View) -> View:
    """A selection that cannot be exported leads back to where it is chosen, with its sentence."""

    @wraps(view)
    def explained(request: HttpRequest, *args: object, **kwargs: object) -> HttpResponseBase:
        try:
            return view(request, *args, **kwargs)
        except BadSelection as error:
            messages.error(request, f"Nothing was exported. {error}")
            return redirect("statements")

    return explained


@requires("billing.view_ledgerentry")
@require_safe
@few_exports
@_explained
def export_focus(request: SignedInRequest) -> HttpResponseBase:
    """FOCUS 1.2 as CSV; see `lines.read` for what the query string may say."""
    selection = _selection(request, "focus")
    return csv_response(_name("focus", selection, "csv"), focus.HEADER, focus.Export(selection).rows())  # fmt: skip


@requires("billing.view_ledgerentry")
@require_safe
@few_exports
@_explained
def export_csv(request: SignedInRequest, what: str) -> HttpResponseBase:
    """One of the tables as CSV."""
    table = _table(what)
    selection = _selection(request, what)
    return csv_response(_name(what, selection, "csv"), table.header, table.rows(selection))


@requires("billing.view_ledgerentry")
@require_safe
@few_exports
@_explained
def export_json(request: SignedInRequest, what: str) -> HttpResponseBase:
    """One of the tables as a JSON array of objects."""
    table = _table(what)
    selection = _selection(request, what)
    pieces = as_json(table.header, table.rows(selection))
    return download(_name(what, selection, "json"), pieces, content_type="application/json")


def _table(what: str) -> Table:
    if what not in TABLES:
        raise Http404(f"There is no export called {what}.")
    return TABLES[what]


def _selection(request: SignedInRequest, what: str) -> Selection:
    """What is asked for; the audit has it before the first row leaves."""
    now = timezone.now()
    selection = read(request.GET, today=now.date())
    if request.method == "GET":
        chain.record(f"export.{what}", actor=request.user, after=selection.audited(), now=now)
    return selection


def _name(what: str, selection: Selection, ending: str) -> str:
    return f"regia-{what}-{selection.start}-{selection.last}.{ending}"
