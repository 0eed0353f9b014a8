"""The Alerts pages: what is open, for operators; who is told how and what became of it, for administrators."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Any

from django.contrib import messages
from django.core.paginator import Paginator
from django.db.models import Prefetch
from django.http import Http404, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_POST

from panel.accounts.access import requires
from panel.alerts import forms, services
from panel.alerts.delivering import undelivered
from panel.alerts.models import Channel, Delivery, Rule, Window
from panel.audit import chain
from panel.notices.models import Notice
from panel.notices.notify import shown_notices
from panel.ui.http import SignedInRequest
from panel.ui.live import live

SEE = "notices.acknowledge_notice"
MANAGE = "alerts.manage_channel"
TABS = {
    "open": "Open",
    "channels": "Channels",
    "rules": "Rules",
    "windows": "Maintenance",
    "log": "Delivery log",
}
LOG_ROWS = 50
OPEN_ROWS = 200


@requires(SEE)
def alerts(request: SignedInRequest) -> HttpResponse:
    """One tab of it (`?tab=`); `#alerts` polls."""
    now = timezone.now()
    may_manage = request.user.has_perm(MANAGE)
    tab = request.GET.get("tab", "open") if may_manage else "open"
    if tab not in TABS:
        raise Http404
    context = {
        "tab": tab,
        "tabs": TABS if may_manage else {},
        "may_manage": may_manage,
        "now": now,
        **_TABS[tab](request, now=now),
    }
    return live(request, "alerts/alerts.html", context, fragments=("alerts",))


def _open(request: SignedInRequest, *, now: datetime) -> dict[str, Any]:
    notices = sorted(shown_notices()[:OPEN_ROWS], key=_pressing)
    names = chain.names_of({n.acknowledged_by for n in notices if n.acknowledged_by})
    windows = list(Window.objects.filter(starts_at__lte=now, ends_at__gt=now).order_by("ends_at"))
    known = dict(forms.deployments())
    return {
        "rows": [(n, names.get(n.acknowledged_by, "")) for n in notices],
        "windows": [(w, forms.names_of(w.subjects, known)) for w in windows],
        "reached": Rule.objects.filter(
            enabled=True, channels__enabled=True, after_minutes=0, subjects=[]
        ).exists(),
    }


def _pressing(notice: Notice) -> tuple[bool, int]:
    """What nobody sees to first, then the worse; the newest first among equals."""
    return notice.acknowledged_at is not None, -Notice.Severity(notice.severity).rank


def _channels(request: SignedInRequest, *, now: datetime) -> dict[str, Any]:
    newest = Prefetch("deliveries", Delivery.objects.filter(state=Delivery.State.WAITING), to_attr="waiting")
    found = Channel.objects.order_by("name").prefetch_related("people", "rules", newest)
    return {"channels": list(found), "kinds": Channel.Kind.choices}


def _rules(request: SignedInRequest, *, now: datetime) -> dict[str, Any]:
    known = dict(forms.deployments())
    rules = Rule.objects.order_by("after_minutes", "name").prefetch_related("channels")
    return {
        "rules": [(rule, forms.names_of(rule.subjects, known)) for rule in rules],
        "has_channels": Channel.objects.exists(),
    }


def _windows(request: SignedInRequest, *, now: datetime) -> dict[str, Any]:
    known = dict(forms.deployments())
    windows = list(Window.objects.order_by("-ends_at")[:LOG_ROWS])
    names = chain.names_of({w.created_by for w in windows})
    return {
        "windows": [(w, forms.names_of(w.subjects, known), names.get(w.created_by, "")) for w in windows],
    }


def _log(request: SignedInRequest, *, now: datetime) -> dict[str, Any]:
    state = request.GET.get("state", "")
    rows = Delivery.objects.select_related("channel", "rule").order_by("-pk")
    if state == "undelivered":
        rows = rows.filter(pk__in=undelivered().values("pk"))
    elif state in Delivery.State.values:
        rows = rows.filter(state=state)
    page = Paginator(rows, LOG_ROWS).get_page(request.GET.get("page"))
    states = [("", "All"), ("undelivered", "Not delivered"), ("sent", "Delivered")]
    return {"log": page, "state": state, "states": states, "lost": undelivered().count()}


_TABS: dict[str, Callable[..., dict[str, Any]]] = {
    "open": _open, "channels": _channels, "rules": _rules, "windows": _windows, "log": _log,
}  # fmt: skip


def _back(tab: str) -> HttpResponse:
    return redirect(f"{reverse('alerts')}?tab={tab}")


@requires(SEE)
@require_POST
def acknowledge(request: SignedInRequest, pk: int) -> HttpResponse:
    notice = get_object_or_404(Notice, pk=pk)
    if services.acknowledge(notice, actor=request.user, now=timezone.now()):
        messages.success(request, f"You see to it: {notice.title}.")
    else:
        messages.info(request, "Somebody sees to it already, or it is over.")
    return redirect("alerts")


# -- channels -----------------------------------------------------------------------------------------


@sensitive_post_parameters()
@requires(MANAGE)
def add_channel(request: SignedInRequest, kind: str) -> HttpResponse:
    """The form of a new channel, and the channel. A signing key that was made is shown this once."""
    if kind not in forms.CHANNEL_FORMS:
        raise Http404
    form = forms.CHANNEL_FORMS[kind](request.POST if request.method == "POST" else None)
    if not form.is_valid():
        return _channel_page(request, form, None)
    wish = form.wish()
    made = services.add_channel(wish, actor=request.user, now=timezone.now())
    messages.success(request, f"{made.name} was added. Press Test to see whether it arrives.")
    if made.signing_key and not wish.signing_key:
        return _key_page(request, made, made.signing_key)
    return _back("channels")


@sensitive_post_parameters()
@requires(MANAGE)
def channel(request: SignedInRequest, pk: int) -> HttpResponse:
    found = get_object_or_404(Channel, pk=pk)
    data = request.POST if request.method == "POST" else None
    form = forms.CHANNEL_FORMS[found.kind](data, channel=found)
    if not form.is_valid():
        return _channel_page(request, form, found)
    services.change_channel(found, form.wish(), actor=request.user, now=timezone.now())
    messages.success(request, "Saved.")
    return _back("channels")


def _channel_page(request: SignedInRequest, form: forms.ChannelForm, found: Channel | None) -> HttpResponse:
    context = {"form": form, "channel": found, "kind": form.kind, "word": Channel.Kind(form.kind).label}
    return render(request, "alerts/channel.html", context, status=422 if form.is_bound else 200)


def _key_page(request: SignedInRequest, found: Channel, key: str) -> HttpResponse:
    response = render(request, "alerts/signing_key.html", {"channel": found, "key": key})
    response["Cache-Control"] = "no-store"
    return response


@requires(MANAGE)
def channel_action(request: SignedInRequest, pk: int, action: str) -> HttpResponse:
    """Test, enable, disable, rotate or delete on POST; asked for with GET, the page that says what it will do."""
    if action not in {"test", "enable", "disable", "rotate", "delete"}:
        raise Http404
    found = get_object_or_404(Channel.objects.prefetch_related("rules"), pk=pk)
    if action == "rotate" and found.kind != Channel.Kind.WEBHOOK:
        raise Http404
    if request.method != "POST":
        return render(request, "alerts/channel_confirm.html", {"channel": found, "action": action})
    now = timezone.now()
    if action == "rotate":
        return _key_page(request, found, services.renew_key(found, actor=request.user, now=now))
    if action == "test" and not found.enabled:
        messages.warning(request, f"{found.name} is off: switch it on first.")
        return _back("channels")
    do, said = _ACTIONS[action]
    do(found, actor=request.user, now=now)
    messages.success(request, said.format(name=found.name))
    return _back("channels")


_ACTIONS: dict[str, tuple[Callable[..., Any], str]] = {
    "test": (services.send_test, "A test message is on its way to {name}."),
    "enable": (partial(services.switch_channel, on=True), "{name} is on."),
    "disable": (partial(services.switch_channel, on=False), "{name} is off. What waited for it was dropped."),
    "delete": (services.delete_channel, "{name} was deleted."),
}


# -- rules and windows --------------------------------------------------------------------------------


@requires(MANAGE)
def rule(request: SignedInRequest, pk: int | None = None) -> HttpResponse:
    """The form of a rule (without `pk`: of a new one), and the rule."""
    found = get_object_or_404(Rule, pk=pk) if pk is not None else None
    form = forms.RuleForm(request.POST if request.method == "POST" else None, rule=found)
    if form.is_valid():
        values = dict(form.cleaned_data)
        channels = values.pop("channels")
        services.save_rule(found or Rule(), values, channels, actor=request.user, now=timezone.now())
        messages.success(request, "Saved. What is open and was not told yet is told by it now.")
        return _back("rules")
    context = {"form": form, "rule": found}
    return render(request, "alerts/rule.html", context, status=422 if form.is_bound else 200)


@requires(MANAGE)
def delete_rule(request: SignedInRequest, pk: int) -> HttpResponse:
    """Delete it on POST; asked for with GET, the page that says who is told no more."""
    found = get_object_or_404(Rule.objects.prefetch_related("channels"), pk=pk)
    if request.method != "POST":
        return render(request, "alerts/rule_confirm.html", {"rule": found})
    services.delete_rule(found, actor=request.user, now=timezone.now())
    messages.success(request, f"{found.name} was deleted.")
    return _back("rules")


@requires(MANAGE)
def add_window(request: SignedInRequest) -> HttpResponse:
    now = timezone.now()
    form = forms.WindowForm(request.POST if request.method == "POST" else None, now=now)
    if form.is_valid():
        c = form.cleaned_data
        services.add_window(
            c["starts_at"], c["ends_at"], c["subjects"], c["reason"], actor=request.user, now=now
        )
        messages.success(request, "Until it ends nobody is told; what is still wrong then is told then.")
        return _back("windows")
    return render(request, "alerts/window.html", {"form": form}, status=422 if form.is_bound else 200)


@requires(MANAGE)
@require_POST
def end_window(request: SignedInRequest, pk: int) -> HttpResponse:
    services.end_window(get_object_or_404(Window, pk=pk), actor=request.user, now=timezone.now())
    messages.success(request, "The maintenance is over. What it held back is told now, if it is still open.")
    return _back("windows")


# -- messages -----------------------------------------------------------------------------------------


@requires(MANAGE)
@require_POST
def retry(request: SignedInRequest, pk: int) -> HttpResponse:
    delivery = get_object_or_404(Delivery.objects.select_related("channel"), pk=pk)
    if services.retry(delivery, actor=request.user, now=timezone.now()):
        messages.success(request, f"It is sent to {delivery.channel.name} again.")
    else:
        messages.info(request, "It has arrived meanwhile, or was dropped.")
    return _back("log")


@requires(MANAGE)
@require_POST
def drop(request: SignedInRequest) -> HttpResponse:
    count = services.drop_undelivered(actor=request.user, now=timezone.now())
    messages.success(request, f"{count} message{'' if count == 1 else 's'} will not be sent any more.")
    return _back("log")
