"""A breach under stress: a short form that saves at once, then one part after the other while the clock runs."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.http import Http404, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.views.decorators.http import require_POST

from panel.accounts.access import requires
from panel.audit import chain
from panel.registers import clocks, forms, letters, services
from panel.registers.models import Breach
from panel.registers.views.page import MANAGE
from panel.ui.http import SignedInRequest


@requires(MANAGE)
def add(request: SignedInRequest) -> HttpResponse:
    """The short form, and the breach."""
    now = timezone.now()
    form = forms.FileBreachForm(request.POST if request.method == "POST" else None, initial={"aware_at": now})
    if form.is_valid():
        breach = services.file_breach(form.cleaned_data, actor=request.user, now=now)
        messages.success(request, "Saved. The clock runs. Fill in the rest as you learn it.")
        return redirect(breach)
    return render(request, "registers/breach_add.html", {"form": form}, status=422 if form.is_bound else 200)


@requires(MANAGE)
def breach(request: SignedInRequest, pk: int) -> HttpResponse:
    """The breach, with one part of it to fill in (`?part=`). That it was read is audited."""
    found = get_object_or_404(Breach, pk=pk)
    now = timezone.now()
    chain.record("breach.read", actor=request.user, target=found, now=now)
    return _page(request, found, request.GET.get("part", ""))


@requires(MANAGE)
@require_POST
def part(request: SignedInRequest, pk: int, part: str) -> HttpResponse:
    """Save one part."""
    if part not in forms.BREACH_PARTS:
        raise Http404
    found, now = get_object_or_404(Breach, pk=pk), timezone.now()
    form = forms.BREACH_PARTS[part][1](request.POST, instance=found)
    if form.is_valid():
        try:
            services.change_breach(found, form.cleaned_data, actor=request.user, now=now)
        except services.Refused as e:
            form.refuse(e.field, str(e))
        else:
            messages.success(request, "Saved.")
            return redirect(f"{found.get_absolute_url()}?part={_after(part)}")
    return _page(request, found, part, form=form, status=422)


def _after(part: str) -> str:
    names = list(forms.BREACH_PARTS)
    return names[min(names.index(part) + 1, len(names) - 1)]


@requires(MANAGE)
@require_POST
def act(request: SignedInRequest, pk: int, action: str) -> HttpResponse:
    """Add a line to the timeline, close or reopen."""
    found, now = get_object_or_404(Breach, pk=pk), timezone.now()
    if action == "note":
        return _note(request, found)
    if action not in {"close", "reopen"}:
        raise Http404
    do = services.close_breach if action == "close" else services.reopen_breach
    try:
        do(found, actor=request.user, now=now)
    except services.Refused as e:
        messages.error(request, str(e))
    else:
        messages.success(request, f"{found} is {'closed' if action == 'close' else 'open again'}.")
    return redirect(found)


def _note(request: SignedInRequest, found: Breach) -> HttpResponse:
    entry = forms.EntryForm(request.POST)
    if not entry.is_valid():
        return _page(request, found, "", entry=entry, status=422)
    c = entry.cleaned_data
    services.add_entry(found, c["kind"], c["text"], actor=request.user, now=timezone.now())
    return redirect(f"{found.get_absolute_url()}#story-h")


def _page(
    request: SignedInRequest,
    found: Breach,
    part: str,
    *,
    form: Any = None,
    entry: Any = None,
    status: int = 200,
) -> HttpResponse:
    # A form that was refused has written nothing; the page shows what is stored.
    breach = Breach.objects.get(pk=found.pk)
    part = part if part in forms.BREACH_PARTS else _first_open(breach)
    lines = list(breach.entries.order_by("-at"))
    names = chain.names_of({breach.filed_by, *(line.by for line in lines)})
    context = {
        "breach": breach, "clock": clocks.of_breach(breach, now=timezone.now()), "now": timezone.now(),
        "part": part, "parts": [(key, title) for key, (title, _) in forms.BREACH_PARTS.items()],
        "form": form or forms.BREACH_PARTS[part][1](instance=breach), "entry": entry or forms.EntryForm(),
        "asked": [(words, article, getattr(breach, name)) for name, words, article in Breach.TO_AUTHORITY],
        "letter": letters.to_authority(breach), "lines": [(line, names[line.by]) for line in lines],
        "filed_by": names[breach.filed_by],
    }  # fmt: skip
    return render(request, "registers/breach.html", context, status=status)


def _first_open(breach: Breach) -> str:
    """The first part in which something is missing."""
    empty = {name for name, _ in breach.wanted() if getattr(breach, name) in (None, "")}
    for key, (_, form) in forms.BREACH_PARTS.items():
        if empty & set(form._meta.fields or ()):
            return key
    return "what"
