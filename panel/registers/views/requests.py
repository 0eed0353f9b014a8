"""Subject requests, from receipt to answer."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.http import Http404, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.views.decorators.http import require_POST

from panel.accounts.access import requires
from panel.audit import chain
from panel.registers import clocks, forms, periods, services
from panel.registers.models import SubjectRequest
from panel.registers.views.page import MANAGE, url_of
from panel.ui.http import SignedInRequest


@requires(MANAGE)
def add(request: SignedInRequest) -> HttpResponse:
    """The form of what came in, and the request."""
    now = timezone.now()
    initial = {"received_on": periods.today(now)}
    form = forms.FileRequestForm(request.POST if request.method == "POST" else None, initial=initial)
    if form.is_valid():
        made = services.file_request(form.cleaned_data, actor=request.user, now=now)
        messages.success(request, f"Saved. It is to be answered by {made.due_on:%-d %B %Y}.")
        return redirect(made)
    return render(request, "registers/request_add.html", {"form": form}, status=422 if form.is_bound else 200)


@requires(MANAGE)
def subject_request(request: SignedInRequest, pk: int) -> HttpResponse:
    """The request, with one part of it to fill in (`?part=`). That it was read is audited."""
    found = get_object_or_404(SubjectRequest, pk=pk)
    chain.record("subject_request.read", actor=request.user, target=found, now=timezone.now())
    return _page(request, found, request.GET.get("part", ""))


@requires(MANAGE)
@require_POST
def part(request: SignedInRequest, pk: int, part: str) -> HttpResponse:
    """Save one part."""
    if part not in forms.REQUEST_PARTS:
        raise Http404
    found = get_object_or_404(SubjectRequest, pk=pk)
    form = forms.REQUEST_PARTS[part][1](request.POST, instance=found)
    if form.is_valid():
        try:
            services.change_request(found, form.cleaned_data, actor=request.user, now=timezone.now())
        except services.Refused as e:
            form.refuse(e.field, str(e))
        else:
            messages.success(request, "Saved.")
            return redirect(found)
    return _page(request, found, part, form=form, status=422)


def _page(
    request: SignedInRequest, found: SubjectRequest, part: str, *, form: Any = None, status: int = 200
) -> HttpResponse:
    stored = SubjectRequest.objects.select_related("account").get(pk=found.pk)
    part = part if part in forms.REQUEST_PARTS else "answer"
    now = timezone.now()
    context = {
        "asked": stored, "clock": clocks.of_request(stored, now=now), "now": now, "part": part,
        "parts": [(key, title) for key, (title, _) in forms.REQUEST_PARTS.items()],
        "form": form or forms.REQUEST_PARTS[part][1](instance=stored),
        "first_month": clocks.answer_due(stored.received_on),
        "may_extend": periods.today(now) <= clocks.answer_due(stored.received_on),
        **_tools(stored),
    }  # fmt: skip
    return render(request, "registers/request.html", context, status=status)


def _tools(stored: SubjectRequest) -> dict[str, str]:
    """Where the person's data is exported and erased, when they have an account and those pages are there."""
    if stored.account_id is None:
        return {}
    return {
        "export_url": url_of("privacy_person_export", stored.account_id),
        "erase_url": url_of("privacy_person_erase", stored.account_id),
    }
