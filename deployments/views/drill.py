"""Killing a machine on purpose: what it will do, and the button."""

from __future__ import annotations

from uuid import UUID

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone

from deployments import drills, services
from deployments.models.drill import DETECTION_GOAL
from deployments.views import reads
from panel.accounts.access import requires
from panel.ui.http import SignedInRequest


@requires("deployments.drill_deployment")
def drill(request: SignedInRequest, pk: UUID) -> HttpResponse:
    """GET says what a drill does, or why none may begin; POST begins it."""
    now = timezone.now()
    d = reads.get_deployment_or_404(request.user, pk)
    if request.method == "POST":
        try:
            drills.begin(d, actor=request.user, now=now)
        except services.ActionRefused as e:
            messages.warning(request, str(e))
        else:
            messages.success(request, f"The drill of {d.name} has begun: its machine is being killed.")
        return redirect(d)
    refusal = drills.refusal(d, now=now)
    context = {
        "d": d,
        "current": d.current,
        "refusal": refusal,
        "goal": DETECTION_GOAL,
        "usual": None if refusal or d.current is None else drills.usual_seconds(d.current, now=now),
    }
    return render(request, "deployments/drill.html", context)
