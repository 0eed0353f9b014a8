"""The Evidence page: choose a period, watch the pack being written, fetch it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from django import forms
from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import get_object_or_404, redirect
from django.utils import timezone
from django.views.decorators.http import require_GET

from panel.accounts.access import requires
from panel.audit import chain
from panel.csvfile import Download
from panel.evidence import sections, services
from panel.evidence.models import Pack
from panel.evidence.pack import PIECE
from panel.ui.http import SignedInRequest
from panel.ui.live import live

EXPORT = "evidence.export_pack"
SHOWN = 20


class PeriodForm(forms.Form):
    first = forms.DateField(label="First day", widget=forms.DateInput(attrs={"type": "date"}))
    last = forms.DateField(label="Last day", widget=forms.DateInput(attrs={"type": "date"}))

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        first, last = cleaned.get("first"), cleaned.get("last")
        if first and last and last < first:
            self.add_error("last", "The last day lies before the first.")
        if first and first > timezone.now().astimezone(UTC).date():
            self.add_error("first", "This day has not begun (UTC).")
        return cleaned

    def period(self) -> tuple[datetime, datetime]:
        """From the first day's midnight to that after the last, UTC."""
        last: date = self.cleaned_data["last"]
        return _midnight(self.cleaned_data["first"]), _midnight(min(last, date.max - timedelta(days=1)) + timedelta(days=1))  # fmt: skip


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


@requires(EXPORT)
def evidence(request: SignedInRequest) -> HttpResponse:
    """The packs there are; POST asks for another."""
    if request.method != "POST":
        return _page(request, PeriodForm(initial=_last_month()))
    form = PeriodForm(request.POST)
    if form.is_valid():
        try:
            services.ask(*form.period(), actor=request.user, now=timezone.now())
        except services.BadPeriod as e:
            form.add_error(None, str(e))
        else:
            messages.success(request, "The evidence pack is being written. It is kept for a week.")
            return redirect("evidence")
    return _page(request, form, status=422)


@requires(EXPORT)
@require_GET
def fetch(request: SignedInRequest, pk: UUID) -> HttpResponseBase:
    """The file, a piece in memory at a time. 404 while there is none."""
    pack = get_object_or_404(Pack, pk=pk, state=Pack.State.READY)
    path = services.path_of(pack)
    if not path.is_file():
        raise Http404("The file of this pack is not in this computer's evidence folder.")
    services.fetched(pack, actor=request.user, now=timezone.now())
    headers = {
        "Content-Disposition": f'attachment; filename="{pack.file_name}"',
        "Content-Length": str(pack.size),
        "Cache-Control": "private, no-store",
    }
    return Download(_pieces(path), content_type="application/zip", headers=headers)


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as f:
        while piece := f.read(PIECE):
            yield piece


def _page(request: HttpRequest, form: forms.Form, *, status: int = 200) -> HttpResponse:
    packs = list(Pack.objects.order_by("-asked_at")[:SHOWN])
    names = chain.names_of({pack.asked_by for pack in packs})
    context = {
        "form": form,
        "packs": [(pack, names[pack.asked_by]) for pack in packs],
        "busy": any(not pack.is_over for pack in packs),
        "sections": sections(),
        "kept_days": services.KEPT.days,
    }
    return live(request, "evidence/evidence.html", context, fragments=("packs",), status=status)


def _last_month() -> dict[str, date]:
    last = timezone.now().astimezone(UTC).date().replace(day=1) - timedelta(days=1)
    return {"first": last.replace(day=1), "last": last}
