"""Who may end a deployment that is protected: an administrator. Everybody who operates may still stop it."""

from __future__ import annotations

from deployments.models import Deployment
from deployments.views.settings_form import SettingsForm
from panel.ui.http import SignedInRequest

# The right to end machines that nothing else may end, as a drill does too.
RIGHT = "deployments.drill_deployment"
REFUSED = "It is protected: only an administrator can terminate it. You can stop it."
KEPT = "It is protected: only an administrator can change this."


def may_end(request: SignedInRequest, d: Deployment) -> bool:
    return not d.protected or request.user.has_perm(RIGHT)


def check_settings(request: SignedInRequest, form: SettingsForm) -> None:
    """Put an error beside what would end the deployment, or let others end it."""
    if may_end(request, form.deployment):
        return
    changed = form.changed()
    for name in ("protected", "delete_at"):
        if name in changed:
            form.add_error(name, KEPT)
