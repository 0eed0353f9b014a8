"""The incidents: what is open, what was; one with its story; and what people do about it."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.core.paginator import Paginator
from django.db.models import Count, Q
from django.http import Http404, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.http import require_safe

from deployments.models import Incident
from deployments.models.incident import IncidentQuerySet
from deployments.monitoring import incidents as rules
from deployments.views import incident_story
from panel.accounts.access import requires
from panel.accounts.models import User
from panel.audit.exporting import note_export
from panel.ui.http import SignedInRequest
from panel.ui.live import live

PAGE_ROWS = 25
TOUCHED = 50
"""What a page names of what an incident touched; the rest are counted."""
_SHOWS = (("open", "Open"), ("closed", "Closed"), ("all", "All"))


@requires("deployments.view_deployment")
def incidents(request: SignedInRequest) -> HttpResponse:
    """`?show=open|closed|all`, `?kind=` one of the kinds; `#list` polls."""
    show, kind = request.GET.get("show", ""), request.GET.get("kind", "")
    show = show if show in dict(_SHOWS) else "open"
    kind = kind if kind in Incident.Kind.values else ""
    seen = Incident.objects.visible_to(request.user)
    page = Paginator(_listed(seen, show, kind), PAGE_ROWS).get_page(request.GET.get("page"))
    context = {
        "page": page,
        "show": show,
        "shows": _SHOWS,
        "kind": kind,
        "kinds": Incident.Kind.choices,
        "any": bool(page.object_list) or seen.exists(),
        "money": request.user.has_perm("billing.view_ledgerentry"),
        "now": timezone.now(),
    }
    return live(request, "deployments/incidents.html", context, fragments=("list",))


def _listed(found: IncidentQuerySet, show: str, kind: str) -> IncidentQuerySet:
    if show == "open":
        found = found.open()
    elif show == "closed":
        found = found.exclude(closed_at=None)
    if kind:
        found = found.filter(kind=kind)
    touches = Count("entries", filter=Q(entries__deployment__isnull=False))
    return (
        found.filter(merged_into=None)
        .select_related("deployment", "account")
        .defer("account__credentials")
        .annotate(touches=touches)
        .order_by("-opened_at", "-pk")
    )


@requires("deployments.view_deployment")
def incident(request: SignedInRequest, pk: int) -> HttpResponse:
    """One incident; `#incident` polls while it is open or its cause stands."""
    context = _one(request, get_incident_or_404(request.user, pk))
    return live(request, "deployments/incident.html", context, fragments=("incident",))


def get_incident_or_404(user: User, pk: int) -> Incident:
    """The incident, if the user may see it; what may not be seen does not exist."""
    seen = Incident.objects.visible_to(user).select_related("deployment", "account", "merged_into")
    found = seen.defer("account__credentials").filter(pk=pk).first()
    if found is None:
        raise Http404
    return found


def _one(request: SignedInRequest, found: Incident) -> dict[str, Any]:
    now = timezone.now()
    touched = incident_story.touched(found)
    return {
        "incident": found,
        "lasted": found.lasted(now),
        "touched": touched[:TOUCHED],
        "more_touched": max(0, len(touched) - TOUCHED),
        "lines": list(reversed(incident_story.story(found, now=now))),
        "may_act": request.user.has_perm("deployments.operate_deployment"),
        "money": request.user.has_perm("billing.view_ledgerentry"),
        "longest": rules.COMMENT_LENGTH,
        "poll": found.is_open or found.over_at is None,
        "now": now,
    }


@requires("deployments.view_deployment")
@require_safe
def export(request: SignedInRequest, pk: int) -> HttpResponse:
    """The incident as a Markdown file."""
    found = get_incident_or_404(request.user, pk)
    money = request.user.has_perm("billing.view_ledgerentry")
    text = incident_story.markdown(found, money=money, now=timezone.now())
    note_export(request, "incident", incident=found.pk)
    headers = {"Content-Disposition": f'attachment; filename="incident-{found.pk}.md"'}
    return HttpResponse(text, content_type="text/markdown; charset=utf-8", headers=headers)


@requires("deployments.operate_deployment")
def act(request: SignedInRequest, pk: int, action: str) -> HttpResponse:
    """Acknowledge, comment or close on POST. A comment that is refused comes back with what was typed."""
    if action not in _SAID:
        raise Http404
    found = get_incident_or_404(request.user, pk)
    if request.method != "POST":
        return redirect(found)
    try:
        _do(request, found, action)
    except rules.IncidentRefused as e:
        if action == "comment":
            context = _one(request, found) | {"typed": request.POST.get("text", ""), "refused": str(e)}
            return render(request, "deployments/incident.html", context, status=422)
        messages.warning(request, str(e))
    else:
        messages.success(request, _SAID[action])
    return redirect(found)


def _do(request: SignedInRequest, found: Incident, action: str) -> None:
    now, actor = timezone.now(), request.user
    if action == "acknowledge":
        rules.acknowledge(found, actor=actor, now=now)
    elif action == "comment":
        rules.comment(found, request.POST.get("text", ""), actor=actor, now=now)
    else:
        rules.close(found, actor=actor, now=now)


_SAID = {
    "acknowledge": "The incident is acknowledged: the others see that somebody looks after it.",
    "comment": "Your comment stands in the incident’s story.",
    "close": "The incident is closed. It opens again only when its cause has gone and come back.",
}
