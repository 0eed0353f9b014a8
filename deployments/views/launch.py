"""The Launch page: choose a model, see what can serve it and what it costs, and launch."""

from __future__ import annotations

from datetime import datetime
from uuid import uuid4

from django.conf import settings
from django.contrib import messages
from django.http import HttpResponse, QueryDict
from django.shortcuts import redirect
from django.urls import reverse
from django.utils import timezone

from deployments import catalog, judging, public_prices, services
from deployments.models import Deployment, Offer, ProviderAccount
from deployments.views.form_fields import PLACES
from deployments.views.launch_choice import Choice, choose
from deployments.views.launch_filters import LOOK, SORTS, VRAM, Filters
from deployments.views.launch_form import LaunchForm
from panel.accounts.access import requires
from panel.ui.http import SignedInRequest
from panel.ui.live import live


@requires("deployments.launch_deployment")
def launch(request: SignedInRequest) -> HttpResponse:
    """GET shows the form (and `#choice` again for other values); POST launches, once per `launch_key`.

    Without JavaScript "show the offers" is a POST too, sent on to its GET: so the CSRF token stays out of addresses.
    """
    now = timezone.now()
    sent = request.method == "POST"
    if sent and LOOK in request.POST:
        return redirect(f"{reverse('launch')}?{_without_token(request.POST)}")
    form = LaunchForm(request.POST, now=now) if sent else LaunchForm.from_query(request.GET, now=now)
    deployment = _try_launch(request, form, now=now) if sent else None
    if deployment:
        return redirect(deployment)
    query = request.POST if sent else request.GET
    choice = choose(form, Filters.from_query(query), usual=query.get("usual", ""), now=now)
    context = {
        "form": form,
        "launch_key": form.own_key or uuid4().hex,
        "models": catalog.MODELS,
        "choice": choice,
        "model_changed": _model_changed(request, choice),
        "plaintext_matters": _plaintext_matters(form),
        "sorts": SORTS,
        "vram_sizes": VRAM,
        "zones": PLACES,
        "dated": public_prices.words(),
        "now": now,
    }
    return live(
        request, "deployments/launch.html", context, fragments=("choice",), status=422 if sent else 200
    )


def _without_token(posted: QueryDict) -> str:
    query = posted.copy()
    query.pop("csrfmiddlewaretoken", None)
    return query.urlencode()


def _model_changed(request: SignedInRequest, choice: Choice) -> bool:
    """Whether the asking page shows another model's context length and must get this one's."""
    return request.GET.get("shown_model", choice.model.key) != choice.model.key


def _plaintext_matters(form: LaunchForm) -> bool:
    """Whether anything on offer would have an unencrypted endpoint that is not allowed already."""
    matters = not settings.INFERENCE_IMAGE_TLS and not judging.is_on_this_computer()
    vast = ProviderAccount.objects.filter(backend=ProviderAccount.Backend.VAST, enabled=True)
    return matters and (bool(form["allow_plaintext"].value()) or vast.exists())


def _try_launch(request: SignedInRequest, form: LaunchForm, *, now: datetime) -> Deployment | None:
    """The launched deployment, or None with the reason beside its field."""
    if not form.is_valid():
        return None
    offer = Offer.objects.filter(pk=form.cleaned_data["offer"]).first()
    if offer and not form.check_bid(offer.quote()):
        return None
    try:
        deployment = services.launch(form.request(), actor=request.user, now=now)
    except services.LaunchRefused as e:
        form.refuse(e.field, str(e))
        return None
    messages.success(request, f"{deployment.name} is being launched.")
    return deployment
