"""Every address with nobody and with each role, GET and POST, against a table that is written out.

A new address without a row fails, and so does a row whose address is gone.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import Any

import pytest
from django.db import transaction
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from panel.accounts.models import SignInLink
from panel.accounts.roles import ADMINISTRATOR, OPERATOR, VIEWER
from panel.audit import chain
from panel.privacy.models import ErasureReceipt
from tests import factories, urls
from tests.browser import scene

NOBODY = "nobody"
WHO = (NOBODY, VIEWER, OPERATOR, ADMINISTRATOR)


@dataclass
class Row:
    """`get` and `post` are the status for nobody, viewer, operator and administrator, in this order."""

    get: str
    post: str
    args: list[Any] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    json: bool = False


# 302 for nobody is the way to sign-in; for the signed-in it is where a form leads, or away from what is not theirs.
OPEN = "200 200 200 200"
NO_SUCH_METHOD = "405 405 405 405"
ABSENT = "404 404 404 404"


def table(made: scene.Scene) -> dict[str, Row]:
    ready = made.ready.pk
    budget = made.budget.pk
    link = SignInLink.issue(factories.operator(), now=timezone.now())
    person, erased = made.administrator.pk, ErasureReceipt.objects.create(at=timezone.now(), document="{}").pk
    return {
        "healthz": Row(OPEN, NO_SUCH_METHOD),
        "readyz": Row("503 503 503 503", NO_SUCH_METHOD),
        "metrics": Row("401 401 401 401", NO_SUCH_METHOD),
        "panel_health": Row("302 200 200 200", "302 405 405 405"),
        "sign_in_link": Row(OPEN, "302 302 302 302", [link]),
        # -- accounts -------------------------------------------------------------------------------
        "account_login": Row("200 302 302 302", "200 302 302 302"),
        "account_logout": Row("302 200 200 200", "302 302 302 302"),
        "account_inactive": Row(OPEN, NO_SUCH_METHOD),
        "account_signup": Row("200 302 302 302", "200 302 302 302"),
        "account_reauthenticate": Row("302 200 200 200", "302 200 200 200"),
        "account_change_password": Row("302 200 200 200", "302 200 200 200"),
        "account_set_password": Row("302 302 302 302", "302 302 302 302"),
        "account_reset_password": Row(ABSENT, ABSENT),
        "account_reset_password_done": Row(ABSENT, ABSENT),
        "account_reset_password_from_key": Row(ABSENT, ABSENT, ["a", "key"]),
        "account_reset_password_from_key_done": Row(ABSENT, ABSENT),
        # -- what runs ------------------------------------------------------------------------------
        "overview": Row("302 200 200 200", "302 200 200 200"),
        "fleet_series": Row("302 200 200 200", "302 200 200 200"),
        "deployments": Row("302 200 200 200", "302 200 200 200"),
        "compare": Row("302 200 200 200", "302 200 200 200"),
        "launch": Row("302 403 200 200", "302 403 422 422"),
        "deployment": Row("302 200 200 200", "302 200 200 200", [ready]),
        "deployment_logs": Row("302 200 200 200", "302 200 200 200", [ready]),
        "deployment_metrics": Row("302 200 200 200", "302 200 200 200", [ready]),
        "deployment_series": Row("302 200 200 200", "302 200 200 200", [ready]),
        "deployment_logs_download": Row("302 200 200 200", "302 200 200 200", [ready]),
        "deployment_action": Row("302 403 200 200", "302 403 302 302", [ready, "stop"]),
        "deployment_drill": Row("302 403 403 200", "302 403 403 302", [ready]),
        "deployment_settings": Row("302 403 302 302", "302 403 422 422", [ready]),
        "incidents": Row("302 200 200 200", "302 200 200 200"),
        "incident": Row("302 200 200 200", "302 200 200 200", [made.incident.pk]),
        "incident_export": Row("302 200 200 200", "302 405 405 405", [made.incident.pk]),
        "incident_action": Row("302 403 302 302", "302 403 302 302", [made.incident.pk, "acknowledge"]),
        "reliability": Row("302 200 200 200", "302 200 200 200"),
        "reliability_csv": Row("302 200 200 200", "302 405 405 405"),
        "radar": Row("302 403 200 200", "302 403 200 200"),
        "radar_action": Row("302 403 200 200", "302 403 302 302", [made.foreign.pk, "hide"]),
        "provider_accounts": Row("302 403 200 200", "302 403 200 200"),
        "provider_account_add": Row("302 403 403 200", "302 403 403 422"),
        "provider_account_action": Row("302 403 403 200", "302 403 403 302", [made.account.pk, "disable"]),
        # -- money ----------------------------------------------------------------------------------
        "spend": Row("302 200 200 200", "302 200 200 200"),
        "budgets": Row("302 200 200 200", "302 200 200 200"),
        "budget_add": Row("302 403 403 200", "302 403 403 422"),
        "budget_change": Row("302 403 403 200", "302 403 403 422", [budget]),
        "budget_lift": Row("302 403 403 200", "302 403 403 422", [budget]),
        "budget_hold": Row("302 403 403 405", "302 403 403 302", [budget]),
        "budget_remove": Row("302 403 403 200", "302 403 403 302", [budget]),
        "spend_csv": Row("302 200 200 200", "302 405 405 405"),
        "spend_machine": Row("302 200 200 200", "302 200 200 200", [made.machine.pk]),
        "reconciliation": Row("302 200 200 200", "302 200 200 200"),
        "reconciliation_csv": Row("302 200 200 200", "302 405 405 405"),
        "discrepancy": Row("302 200 200 200", "302 405 405 405", [made.gap.pk]),
        "discrepancy_action": Row(
            "302 403 405 405", "302 403 302 302", [made.gap.pk, "comment"], {"comment": "We ask them."}
        ),
        "bill_again": Row("302 403 405 405", "302 403 302 302", [made.account.pk]),
        "month_close": Row("302 403 403 302", "302 403 403 302"),
        "advice": Row("302 200 200 200", "302 200 200 200"),
        "advice_action": Row(
            "302 403 302 302", "302 403 302 302", [ready, "move", "dismiss"], {"days": "30", "reason": "no"}
        ),
        "statements": Row("302 200 200 200", "302 405 405 405"),
        "statement": Row("302 200 200 200", "302 405 405 405", [f"{timezone.now():%Y-%m}"]),
        "currency": Row("302 403 403 302", "302 403 403 302", data={"show-currency": "CZK"}),
        "exchange_rate": Row("302 403 403 302", "302 403 403 422"),
        "export_focus": Row("302 200 200 200", "302 405 405 405"),
        "export_csv": Row("302 200 200 200", "302 405 405 405", ["entries"]),
        "export_json": Row("302 200 200 200", "302 405 405 405", ["days"]),
        # -- alerts ---------------------------------------------------------------------------------
        "alerts": Row("302 403 200 200", "302 403 200 200"),
        "notice_acknowledge": Row("302 403 405 405", "302 403 302 302", [made.notice.pk]),
        "alert_channel_add": Row("302 403 403 200", "302 403 403 422", ["webhook"]),
        "alert_channel": Row("302 403 403 200", "302 403 403 422", [made.channel.pk]),
        "alert_channel_action": Row("302 403 403 200", "302 403 403 302", [made.channel.pk, "test"]),
        "alert_rule_add": Row("302 403 403 200", "302 403 403 422"),
        "alert_rule": Row("302 403 403 200", "302 403 403 422", [made.rule.pk]),
        "alert_rule_delete": Row("302 403 403 200", "302 403 403 302", [made.rule.pk]),
        "alert_window_add": Row("302 403 403 200", "302 403 403 422"),
        "alert_window_end": Row("302 403 403 405", "302 403 403 302", [made.window.pk]),
        "alert_messages_drop": Row("302 403 403 405", "302 403 403 302"),
        "alert_message_retry": Row("302 403 403 405", "302 403 403 302", [made.message.pk]),
        # -- evidence -------------------------------------------------------------------------------
        "evidence": Row("302 403 403 200", "302 403 403 422"),
        "evidence_download": Row("302 403 403 404", "302 403 403 405", [uuid.UUID(int=1)]),
        # -- privacy --------------------------------------------------------------------------------
        "privacy": Row(OPEN, NO_SUCH_METHOD),
        "privacy_receipt": Row(OPEN, NO_SUCH_METHOD, [erased]),
        "privacy_receipt_file": Row(OPEN, NO_SUCH_METHOD, [erased, "json"]),
        "privacy_mine": Row("302 200 200 200", "302 405 405 405"),
        "privacy_retention": Row("302 403 403 200", "302 403 403 302"),
        "privacy_person_export": Row("302 403 403 200", "302 403 403 200", [person]),
        "privacy_person_erase": Row("302 403 403 200", "302 403 403 422", [person]),
        # -- compliance -----------------------------------------------------------------------------
        "compliance": Row("302 403 200 200", "302 403 200 200"),
        "compliance_draft": Row("302 403 403 405", "302 403 403 302"),
        "breach_add": Row("302 403 403 200", "302 403 403 422"),
        "breach": Row("302 403 403 200", "302 403 403 200", [made.breach.pk]),
        "breach_part": Row("302 403 403 405", "302 403 403 422", [made.breach.pk, "what"]),
        "breach_action": Row("302 403 403 405", "302 403 403 302", [made.breach.pk, "close"]),
        "subject_request_add": Row("302 403 403 200", "302 403 403 422"),
        "subject_request": Row("302 403 403 200", "302 403 403 200", [made.request.pk]),
        "subject_request_part": Row("302 403 403 405", "302 403 403 302", [made.request.pk, "answer"]),
        # -- chat -----------------------------------------------------------------------------------
        "playground": Row("302 403 200 200", "302 403 200 200"),
        "playground_for": Row("302 403 200 200", "302 403 200 200", [ready]),
        "chat_render": Row("302 405 405 405", "302 403 400 400"),
        "chat_stream": Row("302 405 405 405", "401 403 400 400", [ready], json=True),
        **admin_table(made),
    }


def admin_table(made: scene.Scene) -> dict[str, Row]:
    """The admin site. Who is not staff is led to its sign-in, which tells them 403."""
    rows = {
        "admin:index": Row("302 302 302 200", "302 302 302 200"),
        "admin:login": Row("302 403 403 302", "302 403 403 302"),
        "admin:logout": Row("302 302 302 302", "302 302 302 302"),
        "admin:password_change": Row("302 302 302 302", "302 302 302 302"),
        "admin:password_change_done": Row("302 302 302 200", "302 302 302 405"),
        "admin:autocomplete": Row("302 302 302 403", "302 302 302 405"),
        "admin:jsi18n": Row("302 302 302 200", "302 302 302 405"),
        "admin:view_on_site": Row("302 302 302 404", "302 302 302 404", [1, 1]),
        "admin:audit_auditevent_verify": Row("302 302 302 405", "302 302 302 302"),
        "admin:audit_auditevent_export": Row("302 302 302 200", "302 302 302 405", ["csv"]),
        "admin:audit_auditevent_origin": Row("302 302 302 405", "302 302 302 200", [1]),
        "admin:accounts_user_link": Row("302 302 302 405", "302 302 302 200", [made.administrator.pk]),
        "admin:app_list": Row("302 302 302 200", "302 302 302 200", ["billing"]),
        "admin/(?P<url>.*)$": Row("302 302 302 404", "302 302 302 404"),
    }
    for model, kept in ADMIN_MODELS.items():
        rows |= _model_rows(model, kept)
    return rows


READ, CHANGE, PEOPLE, KEPT, FILED, DAYS = "read", "change", "people", "kept", "filed", "days"
"""KEPT is added and changed and never deleted; FILED is added on a page of its own."""
ADMIN_MODELS = {
    "audit_auditevent": READ,
    "notices_notice": READ,
    "alerts_channel": READ,
    "alerts_rule": READ,
    "alerts_window": READ,
    "alerts_delivery": READ,
    "billing_subject": READ,
    "billing_pricesegment": READ,
    "billing_usagecharge": READ,
    "billing_ledgerentry": READ,
    "billing_adjustment": READ,
    "billing_closedperiod": READ,
    "billing_budget": READ,
    "billing_budgetcrossing": READ,
    "billing_reservation": READ,
    "billing_bill": READ,
    "billing_providerstatement": READ,
    "billing_discrepancy": READ,
    "billing_booking": READ,
    "billing_monthclose": READ,
    "deployments_offer": READ,
    "deployments_deployment": READ,
    "deployments_instance": READ,
    "deployments_event": READ,
    "deployments_residencyevidence": READ,
    "deployments_provideraccount": CHANGE,
    "privacy_purgerun": READ,
    "privacy_erasurereceipt": READ,
    "privacy_legalhold": PEOPLE,
    "accounts_user": PEOPLE,
    "registers_processingactivity": KEPT,
    "registers_processor": KEPT,
    "registers_transfer": KEPT,
    "registers_dpia": KEPT,
    "registers_breach": FILED,
    "registers_subjectrequest": KEPT,
    "registers_adequacydecision": KEPT,
    "registers_deadline": CHANGE,
    "registers_holiday": DAYS,
}


def _model_rows(model: str, kept: str) -> dict[str, Row]:
    """What an administrator may do with the model's rows; all others are led away."""
    away, key = "302 302 302", _existing(model)
    # A row that is not there leads away too, but a delete is refused before it is looked for.
    seen = "200" if key != ["0"] else "302"
    add = {PEOPLE: "200", KEPT: "200", DAYS: "200", FILED: "302"}.get(kept, "403")
    # What is there may not be deleted; a row that is not there leads away where its kind may be.
    gone = "403" if kept != DAYS else "302"
    save = "403" if kept == READ else "200"
    name = f"admin:{model}"
    return {
        f"{name}_changelist": Row(f"{away} 200", f"{away} 200"),
        f"{name}_add": Row(f"{away} {add}", f"{away} {add}"),
        f"{name}_change": Row(f"{away} {seen}", f"{away} {save if seen == '200' else seen}", key),
        f"{name}_history": Row(f"{away} {seen}", f"{away} {seen}", key),
        f"{name}_delete": Row(f"{away} {gone}", f"{away} {gone}", key),
        f"admin/{model.replace('_', '/', 1)}/<path:object_id>/": Row(f"{away} 302", f"{away} 302", key),
    }


def _existing(model: str) -> list[str]:
    """The key of a row of the model; 0, which leads away, when the scene has none."""
    from django.apps import apps

    found = apps.get_model(*model.split("_", 1))._default_manager.order_by("pk").first()
    return [str(found.pk) if found else "0"]


@pytest.fixture
def made(db) -> scene.Scene:
    chain.record("thing.done", actor=None, now=timezone.now())
    return scene.build(now=timezone.now())


@pytest.fixture
def clients(db) -> dict[str, Client]:
    found = {NOBODY: Client(raise_request_exception=False)}
    for role in (VIEWER, OPERATOR, ADMINISTRATOR):
        found[role] = Client(raise_request_exception=False)
        found[role].force_login(factories.user(role, password="a long enough password"))
    return found


def ask(client: Client, method: str, path: str, row: Row) -> int:
    """The status, with whatever the request did undone."""
    cookies = client.cookies.copy()
    with transaction.atomic():
        if method == "get":
            status = client.get(path).status_code
        elif row.json:
            status = client.post(path, row.data, content_type="application/json").status_code
        else:
            status = client.post(path, row.data).status_code
        transaction.set_rollback(True)
    client.cookies = cookies
    return status


def path_of(address: urls.Address, row: Row) -> str:
    if "/" not in address.name:
        return reverse(address.name, args=row.args)
    # Nameless: the catch-all of the admin site and the old addresses of its objects.
    route = address.route.replace("(?P<url>.*)$", "nothing-here").replace("<path:object_id>", "{}")
    return "/" + route.format(*row.args)


def test_every_address_has_a_row_and_every_row_an_address(made):
    assert {a.name for a in urls.addresses()} == set(table(made))


def test_every_address_answers_each_role_as_written(made, clients):
    rows, wrong = table(made), []
    for address in urls.addresses():
        row = rows[address.name]
        for method, expected in (("get", row.get), ("post", row.post)):
            found = " ".join(str(ask(clients[who], method, path_of(address, row), row)) for who in WHO)
            if found != expected:
                wrong.append(f"{method.upper()} {address.name}: {found}, not {expected}")
    assert not wrong, "\n".join(wrong)


def test_a_refused_role_gets_the_page_that_says_so(made, clients):
    page = clients[VIEWER].get(reverse("launch"))
    assert page.status_code == 403
    assert "You may not do this" in page.text
