"""The pages of privacy. A person may do everything about themselves, administrators about anybody."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_not_required
from django.contrib.auth.models import AnonymousUser
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_GET, require_http_methods

from panel.accounts.access import REFUSED, requires
from panel.accounts.admin import may_manage
from panel.accounts.models import User
from panel.audit import chain
from panel.celery import app
from panel.privacy import erasing, exporting, notice, purging
from panel.privacy.evidence import who
from panel.privacy.forms import EraseForm
from panel.privacy.models import MANAGE, PURGE, ErasureReceipt, LegalHold, PurgeRun
from panel.ui.http import SignedInRequest

RUNS = 14
RECEIPTS = 20
RUN_NOW = "panel.privacy.tasks.purge"
_FILES = {"json": ("document", "application/json"), "html": ("page", "text/html; charset=utf-8")}


@login_not_required
@require_GET
def privacy(request: HttpRequest) -> HttpResponse:
    """The published page, for everybody: what is kept, why, how long, and whom to ask."""
    context = {
        "purposes": notice.purposes(),
        "controller": exporting.controller(),
        "mail": settings.MAIL_CONFIGURED,
    }
    return render(request, "privacy/privacy.html", {**context, "frame": _frame(request)})


@login_not_required
@require_GET
@never_cache
def receipt(request: HttpRequest, pk: UUID) -> HttpResponse:
    """A receipt, for whoever holds its address: who was erased cannot sign in, and it names nobody."""
    found = get_object_or_404(ErasureReceipt, pk=pk)
    return render(
        request, "privacy/receipt.html", {"receipt": found, "frame": _frame(request), **_read(found)}
    )


@login_not_required
@require_GET
@never_cache
def receipt_file(request: HttpRequest, pk: UUID, kind: str) -> HttpResponse:
    """The receipt as it was written, `kind` json or html: its SHA-256 is that of these bytes."""
    if kind not in _FILES:
        raise Http404
    attribute, content_type = _FILES[kind]
    found = get_object_or_404(ErasureReceipt, pk=pk)
    name = f"regia-erasure-{found.at:%Y-%m-%d}-{str(found.pk)[:8]}.{kind}"
    return _file(getattr(found, attribute).encode(), name, content_type)


@require_GET
@never_cache
def mine(request: SignedInRequest) -> HttpResponse:
    """What the panel holds about whoever looks, and what they can do about it."""
    context = {"parts": exporting.parts_of(request.user), "controller": exporting.controller()}
    return render(request, "privacy/mine.html", context)


@never_cache
@require_http_methods(["GET", "POST"])
def person_export(request: SignedInRequest, pk: int) -> HttpResponse:
    """Everything about one person as a zip on POST; asked for with GET, what would be in it."""
    user, now = _person(request, pk), timezone.now()
    if request.method != "POST":
        return render(
            request, "privacy/export_page.html", {"person": user, "parts": exporting.parts_of(user)}
        )
    made = exporting.export(user, now=now)
    with transaction.atomic():
        after = {"rows": made.rows, "kinds": len(made.parts)}
        chain.record("privacy.export", actor=request.user, target=user, after=after, now=now)
    return _file(made.content, f"regia-data-{user.pk}-{now:%Y-%m-%d}.zip", "application/zip")


@sensitive_post_parameters("typed")
@never_cache
@require_http_methods(["GET", "POST"])
def person_erase(request: SignedInRequest, pk: int) -> HttpResponse:
    """The plan, and on POST with the name typed the erasure; it leads to the receipt."""
    user, now = _person(request, pk), timezone.now()
    form = EraseForm(request.POST if request.method == "POST" else None, user=user)
    if not form.is_valid():
        return _plan_page(request, user, form)
    names = bool(form.cleaned_data.get("names", True))
    try:
        made = erasing.erase(
            user, reason=form.cleaned_data["reason"], actor=request.user, now=now, names=names
        )
    except erasing.Blocked as e:
        form.add_error(None, str(e))
        return _plan_page(request, user, form)
    if user.pk == request.user.pk:
        # Their session went with them; nothing of it may be written again.
        request.session.flush()
        request.user = AnonymousUser()  # type: ignore[assignment]
    return redirect("privacy_receipt", made.pk)


def _plan_page(request: SignedInRequest, user: User, form: EraseForm) -> HttpResponse:
    plan = erasing.plan_of(user, now=timezone.now())
    context = {"person": user, "plan": plan, "form": form, "is_me": user.pk == request.user.pk}
    return render(request, "privacy/erase.html", context, status=422 if form.is_bound else 200)


@requires(PURGE)
@never_cache
@require_http_methods(["GET", "POST"])
def retention(request: SignedInRequest) -> HttpResponse:
    """What the purge did, and with `?look=1` what it would take now; on POST it is asked to run."""
    if request.method == "POST":
        return _run_now(request)
    now = timezone.now()
    holds = LegalHold.objects.active(now).select_related("person").order_by("-since")
    runs = list(PurgeRun.objects.order_by("-started_at")[:RUNS])
    context: dict[str, Any] = {
        "runs": [(run, who(run.asked_by)) for run in runs],
        "last": runs[0] if runs else None,
        "would_go": purging.dry_run(now=now) if "look" in request.GET else None,
        "holds": holds,
        "receipts": ErasureReceipt.objects.defer("document", "page").order_by("-at")[:RECEIPTS],
        "people": User.objects.order_by("email") if request.user.has_perm(MANAGE) else (),
    }
    return render(request, "privacy/retention.html", context)


def _run_now(request: SignedInRequest) -> HttpResponse:
    # In a worker: a first run of years takes longer than a page may.
    try:
        app.send_task(RUN_NOW, args=(request.user.pk,), expires=600, retry=False)
    except Exception:  # whatever the broker's client raises: nothing was asked for
        messages.error(
            request, "The purge could not be asked for: the task queue does not answer. Try again."
        )
    else:
        messages.success(request, "The purge runs. Its figures stand here in a moment.")
    return redirect(reverse("privacy_retention"))


def _person(request: SignedInRequest, pk: int) -> User:
    """Whom it is about: oneself, or with the right to it somebody else. Raises PermissionDenied, Http404."""
    if pk != request.user.pk and not request.user.has_perm(MANAGE):
        raise PermissionDenied(REFUSED)
    user = get_object_or_404(User, pk=pk)
    if not may_manage(request.user, user):
        raise PermissionDenied(
            "The first administrator's data is handled by themselves or by another of their kind."
        )
    return user


def _read(found: ErasureReceipt) -> dict[str, Any]:
    return {"told": json.loads(found.document)}


def _frame(request: HttpRequest) -> str:
    return "base.html" if request.user.is_authenticated else "privacy/open.html"


def _file(content: bytes, name: str, content_type: str) -> HttpResponse:
    headers = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "private, no-store"}
    return HttpResponse(content, content_type=content_type, headers=headers)
