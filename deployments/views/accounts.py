"""The accounts at the providers: what each may do, has left and last showed; and the acts of an administrator."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from django import forms
from django.contrib import messages
from django.db.models import Count, Q
from django.http import Http404, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.debug import sensitive_post_parameters

from billing.above import AccountRunway
from deployments import accounts as rules
from deployments import radar
from deployments.lifecycle import State
from deployments.models import Breaker, Instance, ProviderAccount
from deployments.runway import runways
from deployments.templatetags.states import COUNTRIES, rate_now
from panel import sandbox
from panel.accounts.access import requires
from panel.ui.http import SignedInRequest
from panel.ui.live import live

CHANGE = "deployments.change_provideraccount"
BALANCE_STALE = timedelta(minutes=30)
OFFERS_STALE = timedelta(minutes=10)
POLL, POLL_WAITING = 15, 2
"""Seconds between two looks of an open page, and while a test is awaited."""


def _key_field() -> forms.CharField:
    # Longer than any key that is taken: its own sentence says what is wrong, and nothing is shown again.
    return forms.CharField(
        label="API key", max_length=20_000, strip=False, error_messages={"required": "Paste the key."},
        help_text="Kept encrypted and never shown again, not even in part.",
        widget=forms.PasswordInput(render_value=False, attrs={"autocomplete": "off", "spellcheck": "false"}),
    )  # fmt: skip


class AccountForm(forms.Form):
    backend = forms.ChoiceField(label="Provider", choices=[(b.value, b.label) for b in rules.RENTED])
    name = forms.CharField(
        max_length=80, help_text="What your team calls it. One provider may have several accounts.",
        widget=forms.TextInput(attrs={"autocomplete": "off"}),
    )  # fmt: skip
    key = _key_field()
    company_country = forms.ChoiceField(
        label="Country of the company", choices=[("", "not known"), *COUNTRIES], required=False, initial="US",
        help_text="Where whom you have the contract with is seated; not where machines stand.",
    )  # fmt: skip
    dpa_reference = forms.CharField(
        label="Processing agreement", max_length=200, required=False,
        help_text="Where the signed one is kept (Art. 28 GDPR).", widget=forms.TextInput(attrs={"autocomplete": "off"}),
    )  # fmt: skip


class KeyForm(forms.Form):
    key = _key_field()


# -- the list ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Row:
    """An account as the page shows it. `burn` USD per hour of what stands there now."""

    account: ProviderAccount
    sweep: radar.Sweep | None
    machines: list[Instance]
    burn: Decimal
    offers: int
    breakers: list[Breaker]
    testable: bool
    waiting: bool
    balance_stale: bool
    runway: AccountRunway | None
    """How long the prepaid money lasts; None where the balance is not known."""
    offers_stale: bool

    @property
    def missing(self) -> list[dict[str, Any]]:
        """The rights that the last test did not find."""
        return [right for right in self.account.rights if not right.get("ok")]


@requires("deployments.view_provideraccount")
def accounts(request: SignedInRequest) -> HttpResponse:
    """Every account; `#accounts` polls, quickly while a test is awaited."""
    now = timezone.now()
    rows = _rows(now=now)
    context = {
        "rows": rows,
        "poll": POLL_WAITING if any(row.waiting for row in rows) else POLL,
        "may_change": request.user.has_perm(CHANGE),
        "now": now,
    }
    return live(request, "deployments/accounts.html", context, fragments=("accounts",))


def _rows(*, now: datetime) -> list[Row]:
    """Seven queries, whatever the number of accounts."""
    offered = Count("offers", filter=Q(offers__available=True))
    found = list(ProviderAccount.objects.annotate(offered=offered).order_by("created_at"))
    standing = _by_account(
        Instance.objects.may_exist().select_related("deployment").without_secrets().order_by("label")
    )
    breakers = _by_account(Breaker.objects.filter(open_until__gt=now).order_by("call"))
    lasts = {r.account: r for r in runways(now)}
    sweeps = {sweep.account.pk: sweep for sweep in radar.sweeps((), now=now)}
    return [
        _row(a, sweeps.get(a.pk), standing[a.pk], breakers[a.pk], a.offered, lasts.get(a.pk), now=now)
        for a in found
    ]


def _by_account(rows: Iterable[Any]) -> dict[UUID, list[Any]]:
    out: dict[UUID, list[Any]] = defaultdict(list)
    for row in rows:
        out[row.account_id].append(row)
    return out


def _row(
    account: ProviderAccount, sweep: radar.Sweep | None, machines: list[Instance], breakers: list[Breaker],
    offers: int, lasts: AccountRunway | None, *, now: datetime,
) -> Row:  # fmt: skip
    testable = account.backend in rules.RENTED and not account.public_only
    return Row(
        account=account, sweep=sweep, machines=machines, burn=_burn(machines), offers=offers, breakers=breakers,
        testable=testable, waiting=testable and account.rights_at is None,
        runway=lasts,
        balance_stale=bool(account.balance_at and now - account.balance_at > BALANCE_STALE),
        offers_stale=account.offers_at is None or now - account.offers_at > OFFERS_STALE,
    )  # fmt: skip


def _burn(machines: Iterable[Instance]) -> Decimal:
    return sum((rate_now(i) for i in machines if i.status is not State.REQUESTED), Decimal(0))


# -- the acts ----------------------------------------------------------------------------------------


@sensitive_post_parameters("key")
@requires("deployments.add_provideraccount")
def add(request: SignedInRequest) -> HttpResponse:
    """The form of a new account, and the account."""
    form = AccountForm(request.POST if request.method == "POST" else None)
    if request.method == "POST" and form.is_valid():
        c = form.cleaned_data
        wish = rules.NewAccount(c["backend"], c["name"], c["key"], c["company_country"], c["dpa_reference"])
        try:
            account = rules.add(wish, actor=request.user, now=timezone.now())
        except rules.AccountRefused as e:
            form.add_error(e.field or None, str(e))
        else:
            messages.success(request, f"{account.name} was added. Its key is being tested.")
            return redirect("provider_accounts")
    context = {"form": form, "sandbox_key": sandbox.KEY}
    return render(request, "deployments/account_form.html", context, status=422 if form.is_bound else 200)


@sensitive_post_parameters("key")
@requires(CHANGE)
def act(request: SignedInRequest, pk: UUID, action: str) -> HttpResponse:
    """Test, disable, enable or give a new key on POST; asked for with GET, the page that says what it will do."""
    if action not in _SAID:
        raise Http404
    account = ProviderAccount.objects.filter(pk=pk).first()
    if account is None:
        raise Http404
    now = timezone.now()
    kind = KeyForm if action == "rotate" else forms.Form
    form = kind(request.POST if request.method == "POST" else None)
    if request.method == "POST" and form.is_valid():
        try:
            _do(account, action, form.cleaned_data.get("key", ""), request, now=now)
        except rules.AccountRefused as e:
            if action != "rotate":
                messages.warning(request, str(e))
                return redirect("provider_accounts")
            form.add_error("key", str(e))
        else:
            messages.success(request, _SAID[action].format(name=account.name))
            return redirect("provider_accounts")
    machines = list(account.instances.may_exist().select_related("deployment").without_secrets())
    context = {
        "account": account, "action": action, "form": form, "machines": machines, "burn": _burn(machines),
        "keyed": account.backend in rules.RENTED, "sandbox_key": sandbox.KEY,
    }  # fmt: skip
    return render(request, "deployments/account_confirm.html", context, status=422 if form.is_bound else 200)


def _do(account: ProviderAccount, action: str, key: str, request: SignedInRequest, *, now: datetime) -> None:
    if action == "rotate":
        rules.rotate(account, key, actor=request.user, now=now)
    else:
        _VERBS[action](account, actor=request.user, now=now)


_VERBS = {"test": rules.ask_test, "disable": rules.disable, "enable": rules.enable}
_SAID = {
    "test": "{name} is being tested. What its key may do appears below.",
    "disable": "{name} is disabled: nothing is rented there any more.",
    "enable": "{name} is enabled.",
    "rotate": "{name} has its new key, which is being tested.",
}
