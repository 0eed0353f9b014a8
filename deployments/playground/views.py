"""The playground's page, its stream and its Markdown."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any

from asgiref.sync import sync_to_async
from django.core.exceptions import RequestDataTooBig
from django.core.handlers.asgi import ASGIRequest
from django.db.models import Case, OuterRef, Subquery, When
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse, StreamingHttpResponse
from django.views.decorators.http import require_POST

from deployments.models import Deployment, Instance
from deployments.playground import ask, markdown, upstream
from deployments.playground.admission import CHATS, Refusal, Seat, admit, body_of, newest_instance, why_not
from deployments.playground.chat import Meter, Relay
from deployments.views import reads
from panel.accounts.access import requires
from panel.accounts.models import User
from panel.ui.http import SignedInRequest
from panel.ui.live import live

Admit = Callable[[HttpRequest, uuid.UUID], Awaitable[Seat]]
"""How the one step into the database is taken from async code."""


async def chat_stream(request: HttpRequest, pk: uuid.UUID) -> HttpResponseBase:
    """POST a chat (see `ask`); answers with the engine's event stream (see `chat`) or JSON {"error": sentence}.

    It guards itself, so that it is as safe behind the middleware chain as before it.
    """
    return await answer(request, pk, admit=admit_in_thread)


async def admit_in_thread(request: HttpRequest, pk: uuid.UUID) -> Seat:
    return await sync_to_async(admit)(request, pk)


async def answer(request: HttpRequest, pk: uuid.UUID, *, admit: Admit) -> HttpResponseBase:
    """What `chat_stream` answers, with the step into the database taken by `admit`."""
    began = time.perf_counter()
    response: HttpResponseBase
    try:
        body = body_of(request)
        seat = await admit(request, pk)
        try:
            wanted = ask.parse(body)
            ask.check_against(wanted, seat.model, seat.context)
            response = await _answer(request, seat, ask.engine_request(wanted, seat.model), began=began)
        except BaseException:
            seat.leave()
            raise
    except ask.BadAsk as e:
        response = JsonResponse({"error": str(e)}, status=400)
    except (Refusal, upstream.EngineRefused) as e:
        response = JsonResponse({"error": str(e)}, status=e.status)
    response.headers["Cache-Control"] = "no-store"
    response.cookies.update(getattr(request, "session_cookies", {}))
    return response


async def _answer(
    request: HttpRequest, seat: Seat, body: dict[str, Any], *, began: float
) -> HttpResponseBase:
    meter = Meter(began=began, usd_per_hour=seat.usd_per_hour)
    if not isinstance(request, ASGIRequest):
        # Under WSGI nothing can stream without holding a thread: the answer comes whole.
        async with upstream.new_session(loopback=seat.engine.loopback) as session:
            relay = Relay(await upstream.open_stream(session, seat.engine, body), meter, leave=seat.leave)
            return HttpResponse(b"".join([chunk async for chunk in relay]), content_type=_SSE)
    upstreams = await upstream.open_stream(upstream.session_for(seat.engine), seat.engine, body)
    relay = Relay(upstreams, meter, leave=seat.leave)
    return EventStream(relay, usd_per_hour=str(seat.usd_per_hour))


_SSE = "text/event-stream; charset=utf-8"


class EventStream(StreamingHttpResponse):
    """A relay's bytes, handed to the server without the wrapping that Django does for each part."""

    def __init__(self, relay: Relay, *, usd_per_hour: str) -> None:
        # X-Accel-Buffering: a reverse proxy in front must not hold tokens back.
        super().__init__(
            relay,
            content_type=_SSE,
            headers={"X-Accel-Buffering": "no", "X-Regia-Usd-Per-Hour": usd_per_hour},
        )
        self.relay = relay

    def __aiter__(self) -> Relay:
        return self.relay


# -- the page ------------------------------------------------------------------------------------------

PICKER = 50
"""Deployments that the picker lists: those that answer first, then the newest."""
MOST_TEXTS = ask.MAX_MESSAGES


@requires("deployments.chat_deployment")
def playground(request: SignedInRequest, pk: uuid.UUID | None = None) -> HttpResponse:
    """The chat with one deployment: the one asked for, else the newest that answers. `#engine` polls."""
    choices = _choices(request.user)
    if pk is None:
        chosen = next((d for d in choices if d.state_now in CHATS), None)
    else:
        chosen = reads.get_deployment_or_404(request.user, pk)
    context: dict[str, Any] = {"choices": choices, "d": chosen, "coming": next(iter(choices), None)}
    if chosen is not None:
        context |= _engine(chosen) | _model(chosen)
    return live(request, "playground/playground.html", context, fragments=("engine",))


def _choices(user: User) -> list[Any]:
    """Deployments to pick from, each with `state_now`, its newest attempt's state."""
    newest = Instance.objects.filter(deployment=OuterRef("pk")).order_by("-attempt")
    answers_first = Case(When(state_now__in=[s.value for s in CHATS], then=0), default=1)
    return list(
        Deployment.objects.visible_to(user)
        .wanted()
        .annotate(state_now=Subquery(newest.values("state")[:1]))
        .order_by(answers_first, "-created_at")[:PICKER]
    )


def _engine(d: Deployment) -> dict[str, Any]:
    instance = newest_instance(d)
    ready = instance is not None and instance.status in CHATS and bool(instance.endpoint_url)
    return {"instance": instance, "ready": ready, "why_not": "" if ready else why_not(d, instance)}


def _model(d: Deployment) -> dict[str, Any]:
    model = d.model
    if model is None:
        return {"model": None, "presets": {}}
    presets = {
        "plain": asdict(model.sampling),
        "thinking": asdict(ask.sampling_of(model, thinking=True)),
    }
    return {
        "model": model,
        "presets": json.dumps(presets),
        "start_with": presets["thinking" if model.thinks else "plain"],
        "languages": (("curl", "curl"), ("python", "Python"), ("javascript", "JavaScript")),
    }


@require_POST
@requires("deployments.chat_deployment")
def chat_render(request: SignedInRequest) -> HttpResponse:
    """{"texts": [Markdown, …]} -> {"html": [safe HTML, …]}. Nothing is kept."""
    try:
        texts = json.loads(request.body)["texts"]
    except (ValueError, KeyError, TypeError, RecursionError):
        texts = None
    except RequestDataTooBig:
        return JsonResponse({"error": "The answer is too long to be drawn as Markdown."}, status=413)
    if not isinstance(texts, list) or not all(isinstance(t, str) for t in texts) or len(texts) > MOST_TEXTS:
        return JsonResponse({"error": "The request must be a JSON object with a list of texts."}, status=400)
    return JsonResponse({"html": markdown.render_all(texts)})
