"""The three roles, as groups. Permissions are named as strings: the apps above are not imported."""

from __future__ import annotations

from typing import Any

VIEWER = "viewer"
OPERATOR = "operator"
ADMINISTRATOR = "administrator"

_VIEW = [
    "deployments.view_deployment",
    "deployments.view_offer",
    "billing.view_ledgerentry",
    "billing.view_budget",
    "billing.view_discrepancy",
]
_OPERATE = [
    *_VIEW,
    "deployments.launch_deployment",
    "deployments.operate_deployment",
    "deployments.chat_deployment",
    "deployments.view_provideraccount",
    "notices.acknowledge_notice",
    "billing.explain_discrepancy",
    "registers.see_compliance",
]
_ADMINISTER = [
    *_OPERATE,
    "deployments.drill_deployment",
    "deployments.add_provideraccount",
    "deployments.change_provideraccount",
    "deployments.view_instance",
    "deployments.view_event",
    "deployments.view_residencyevidence",
    "billing.change_budget",
    "billing.book_discrepancy",
    "billing.view_bill",
    "billing.view_booking",
    "billing.view_monthclose",
    "billing.view_providerstatement",
    "billing.add_exchangerate",
    "billing.view_adjustment",
    "billing.view_budgetcrossing",
    "billing.view_closedperiod",
    "billing.view_pricesegment",
    "billing.view_reservation",
    "billing.view_subject",
    "billing.view_usagecharge",
    "accounts.view_user",
    "accounts.add_user",
    "accounts.change_user",
    "audit.view_auditevent",
    "evidence.export_pack",
    "notices.view_notice",
    "alerts.manage_channel",
    "alerts.view_channel",
    "alerts.view_delivery",
    "alerts.view_rule",
    "alerts.view_window",
    "privacy.run_purge",
    "privacy.manage_person",
    "privacy.view_purgerun",
    "privacy.view_erasurereceipt",
    "privacy.view_legalhold",
    "privacy.add_legalhold",
    "privacy.change_legalhold",
    "registers.manage_compliance",
    "registers.add_processingactivity",
    "registers.change_processingactivity",
    "registers.view_processingactivity",
    "registers.add_processor",
    "registers.change_processor",
    "registers.view_processor",
    "registers.add_transfer",
    "registers.change_transfer",
    "registers.view_transfer",
    "registers.add_dpia",
    "registers.change_dpia",
    "registers.view_dpia",
    "registers.add_breach",
    "registers.change_breach",
    "registers.view_breach",
    "registers.add_subjectrequest",
    "registers.change_subjectrequest",
    "registers.delete_subjectrequest",
    "registers.view_subjectrequest",
    "registers.add_adequacydecision",
    "registers.change_adequacydecision",
    "registers.view_adequacydecision",
    "registers.change_deadline",
    "registers.view_deadline",
    "registers.add_holiday",
    "registers.change_holiday",
    "registers.delete_holiday",
    "registers.view_holiday",
]
ROLES: dict[str, list[str]] = {VIEWER: _VIEW, OPERATOR: _OPERATE, ADMINISTRATOR: _ADMINISTER}


def sync_roles(**_: Any) -> None:
    """Make each role's group hold just its permissions, those whose app has been migrated. Idempotent."""
    from django.contrib.auth.models import Group, Permission

    known = {
        f"{p.content_type.app_label}.{p.codename}": p
        for p in Permission.objects.select_related("content_type")
    }
    for role, names in ROLES.items():
        group, _created = Group.objects.get_or_create(name=role)
        group.permissions.set([known[n] for n in names if n in known])
