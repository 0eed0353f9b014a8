"""Who may chat with what: everything a stream needs of the request and the database, before it opens.

The stream's path runs past the middleware chain, so this is as strict as the chain: the same objects of
Django check the host, the origin and the token, read the session and verify its hash.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from decimal import Decimal
from importlib import import_module
from operator import attrgetter
from typing import NamedTuple, cast

from django.conf import settings
from django.contrib import auth
from django.contrib.auth.models import Permission
from django.contrib.sessions.backends.base import SessionBase
from django.contrib.sessions.backends.db import SessionStore
from django.contrib.sessions.middleware import SessionMiddleware
from django.contrib.sessions.models import Session
from django.core.exceptions import DisallowedHost, RequestDataTooBig
from django.db import DatabaseError, InterfaceError, connection
from django.db.models import Q
from django.http import HttpRequest, HttpResponse, UnreadablePostError
from django.middleware.csrf import CsrfViewMiddleware
from django.utils import timezone
from django.utils.crypto import constant_time_compare

from deployments import catalog
from deployments.certificates import Pin, name_of
from deployments.lifecycle import State
from deployments.models import Deployment, Instance
from deployments.playground.prepared import Prepared
from deployments.playground.upstream import Engine
from deployments.tiers import BALANCED
from panel.accounts.models import User
from panel.throttle import AtOnce

logger = logging.getLogger(__name__)

CHATS = (State.READY, State.DEGRADED)
"""The states in which an engine answers."""


class Refusal(Exception):
    """The chat is refused before it began. The text is a sentence for the person who asked."""

    def __init__(self, text: str, *, status: int) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True, slots=True)
class Seat:
    """What a stream needs of the database, so that nothing is read while it runs."""

    engine: Engine
    model: catalog.Model
    context: int
    usd_per_hour: Decimal
    leave: Callable[[], None] = lambda: None
    """Gives the person's place back, at the stream's end, however it ends. May be called again."""


_STREAMS = AtOnce()


def _take_place(user: User) -> Callable[[], None]:
    """A place among the streams that one person may have at once. Raises Refusal when all are taken."""
    most = settings.CHAT_STREAMS_EACH
    leave = _STREAMS.take(user.pk, most=most)
    if leave is None:
        raise Refusal(
            f"{most} of your answers are being written already: wait for one to end, or stop one.", status=429
        )
    return leave


# -- the request ----------------------------------------------------------------------------------------


def body_of(request: HttpRequest) -> bytes:
    """The request's body once its method, host, origin, token and type hold. Raises Refusal."""
    try:
        request.get_host()
    except DisallowedHost:
        raise Refusal("This host name is not served here.", status=400) from None
    if request.method != "POST":
        raise Refusal("A chat is sent by POST.", status=405)
    if request.content_type != "application/json":
        raise Refusal("A chat is sent as JSON (application/json).", status=415)
    if reason := _forged(request):
        raise Refusal(reason, status=403)
    try:
        body = request.body
    except RequestDataTooBig:
        body = None
    except UnreadablePostError:
        raise Refusal("The request broke off.", status=400) from None
    if body is None or len(body) > settings.DATA_UPLOAD_MAX_MEMORY_SIZE:
        limit = settings.DATA_UPLOAD_MAX_MEMORY_SIZE // 1024
        raise Refusal(f"The conversation is longer than {limit} KiB: start a new one.", status=413)
    return body


class _Csrf(CsrfViewMiddleware):
    """Django's own check; what it would answer with a page, it answers with the reason."""

    def _reject(self, request: HttpRequest, reason: str) -> HttpResponse:
        return HttpResponse(reason, status=403)


def _nothing(request: HttpRequest) -> HttpResponse:
    return HttpResponse()


_csrf = _Csrf(_nothing)


def _forged(request: HttpRequest) -> str:
    _csrf.process_request(request)
    rejected = _csrf.process_view(request, _nothing, (), {})
    return "This page has expired. Reload it and send again: nothing is lost." if rejected else ""


# -- the database: one short step ---------------------------------------------------------------------------


def admit(request: HttpRequest, deployment_id: uuid.UUID) -> Seat:
    """The seat of the request's user at the deployment's engine. Raises Refusal.

    It reads the session, the user, their rights, the deployment and its instance, and lets the connection go.
    """
    try:
        return _admit(request, deployment_id)
    except (DatabaseError, InterfaceError):
        logger.exception("The database could not be read for a chat.")
        raise Refusal("The panel cannot read its database now. Try again in a moment.", status=503) from None
    finally:
        # Not inside somebody's transaction, which only a test has here.
        if not connection.in_atomic_block:
            connection.close()


def admit_on_kept_connection(request: HttpRequest, deployment_id: uuid.UUID) -> Seat:
    """`admit`, on a connection that this thread keeps for a minute: for the door's few threads alone.

    Opening one was measured to cost more than all the queries. A connection that broke is opened again, once.
    """
    now = time.monotonic()
    if now > getattr(_kept, "until", 0.0):
        connection.close()
        _kept.until = now + 60
    try:
        return _admit(request, deployment_id)
    except (DatabaseError, InterfaceError):
        connection.close()
        return admit(request, deployment_id)


_kept = threading.local()


def _admit(request: HttpRequest, deployment_id: uuid.UUID) -> Seat:
    user = _user(request)
    visible = Deployment.objects.visible_to(user)
    # Who sees every deployment needs no filter: then one query, always the same, finds what serves.
    sees_all = not visible.query.where and not visible.query.is_empty()
    if sees_all and (serving := _SERVING.rows(deployment_id)):
        return _placed(user, _seat(_Serving(*serving[0])))
    deployment = visible.filter(pk=deployment_id).first()
    if deployment is None:
        raise Refusal("There is no such deployment.", status=404)
    instance = newest_instance(deployment)
    if instance is None or instance.status not in CHATS:
        raise Refusal(why_not(deployment, instance), status=409)
    return _placed(user, _seat(_Serving(*(attrgetter(path)(instance) for path in _SERVING_COLUMNS))))


def _placed(user: User, seat: Seat) -> Seat:
    return replace(seat, leave=_take_place(user))


# -- the user


def _user(request: HttpRequest) -> User:
    request.session = _store()(request.COOKIES.get(settings.SESSION_COOKIE_NAME))
    user = _plainly_signed_in(request.session) or auth.get_user(request)
    if request.session.modified:
        # The check changed it: an old secret's hash was renewed, or a wrong one flushed.
        kept = SessionMiddleware(_nothing).process_response(request, HttpResponse())
        request.session_cookies = kept.cookies  # type: ignore[attr-defined]
    if not isinstance(user, User):
        raise Refusal("Your session has ended. Sign in again in another tab, then send again.", status=401)
    if not user.is_superuser:
        # What ModelBackend would gather with two queries, where it keeps it.
        user._perm_cache = {f"{app}.{name}" for app, name in _PERMISSIONS.rows(user.pk)}  # type: ignore[attr-defined]
    if not user.has_perm("deployments.chat_deployment"):
        raise Refusal(
            "Your role may not chat with a deployment. An administrator can change that.", status=403
        )
    return user


def _plainly_signed_in(session: SessionBase) -> User | None:
    """The session's user when nothing about it is in doubt; whatever else there is, `auth.get_user` judges."""
    user_id, seal = session.get(auth.SESSION_KEY), session.get(auth.HASH_SESSION_KEY)
    if (
        not user_id
        or not seal
        or session.get(auth.BACKEND_SESSION_KEY) not in settings.AUTHENTICATION_BACKENDS
    ):
        return None
    found = _USER.rows(user_id)
    user = User.from_db(connection.alias, _USER_COLUMNS, found[0]) if found else None
    if user is None or not user.is_active or not constant_time_compare(seal, user.get_session_auth_hash()):
        return None
    return user


_NO_USER = -987_654_321
_USER_COLUMNS = [field.attname for field in User._meta.concrete_fields]
_USER = Prepared(lambda pk: User.objects.filter(pk=pk).values_list(*_USER_COLUMNS), User._meta.pk, _NO_USER)
_PERMISSIONS = Prepared(
    lambda user: Permission.objects.filter(Q(user=user) | Q(group__user=user)).values_list(
        "content_type__app_label", "codename"
    ),
    User._meta.pk,
    _NO_USER,
)


def _store() -> type[SessionBase]:
    if settings.SESSION_ENGINE == "django.contrib.sessions.backends.db":
        return _Session
    return cast(type[SessionBase], import_module(settings.SESSION_ENGINE).SessionStore)


class _Session(SessionStore):
    """Django's session in the database, read by a query compiled once."""

    # Django derives the signature's salt from the class's name; the data is that class's.
    key_salt = f"django.contrib.sessions.{SessionStore.__qualname__}"

    def _get_session_from_db(self) -> Session | None:
        for data, expires in _SESSION.rows(self.session_key):
            if expires > timezone.now():
                return Session(session_key=self.session_key or "", session_data=data, expire_date=expires)
        self._session_key = None
        return None


_SESSION = Prepared(
    lambda key: Session.objects.filter(session_key=key).values_list("session_data", "expire_date"),
    Session._meta.pk,
    "no-session-has-this-key",
)


# -- the deployment and its engine


class _Serving(NamedTuple):
    """What is needed of an attempt that serves, and of its deployment."""

    url: str
    key: str
    quote: dict[str, object]
    usd_per_hour: Decimal
    name: str
    model_key: str
    context: int
    allow_plaintext: bool
    account_key: str
    machine: uuid.UUID = uuid.UUID(int=0)
    certificate: str = ""

    def __repr__(self) -> str:
        return f"_Serving({self.url!r}, {self.name!r})"


_SERVING_COLUMNS = (
    "endpoint_url", "api_key", "quote", "usd_per_hour",
    "deployment.name", "deployment.model_key", "deployment.context", "deployment.allow_plaintext",
    "account.credentials", "id", "tls_certificate",
)  # fmt: skip
_SERVING = Prepared(
    lambda pk: (
        Instance.objects.filter(deployment=pk, state__in=[s.value for s in CHATS])
        .order_by("-attempt")
        .values_list(*(path.replace(".", "__") for path in _SERVING_COLUMNS))[:1]
    ),
    Deployment._meta.pk,
    uuid.UUID("00000000-0000-4000-8000-000000000000"),
)


def newest_instance(deployment: Deployment) -> Instance | None:
    """The newest attempt that serves; when none does, the newest attempt of all, for what to say of it."""
    attempts = deployment.instances.order_by("-attempt")
    return attempts.filter(state__in=[s.value for s in CHATS]).first() or attempts.first()


def _seat(serving: _Serving) -> Seat:
    # As `Instance.bearer`: a serverless endpoint is opened with its account's key.
    key = serving.account_key if serving.quote.get("serverless") else serving.key
    if not serving.url or not key:
        raise Refusal(
            f"{serving.name} has told no address for its engine yet. Try again in a moment.", status=409
        )
    model = catalog.get_model(serving.model_key)
    if model is None:
        raise Refusal(f"{serving.name} serves a model that the catalogue no longer knows.", status=409)
    loopback = bool(serving.quote.get("own_machine")) or settings.ALLOW_INSECURE_ENDPOINTS
    # As `Instance.pin`, and as the probe connects: what has a certificate is not spoken to without it.
    pin = Pin(serving.certificate, name_of(serving.machine)) if serving.certificate else None
    plaintext = serving.allow_plaintext and pin is None
    # Behind a load balancer the account's key opens the provider's door alone: ours asks for the machine's.
    door_key = serving.key if serving.quote.get("tier") == BALANCED else ""
    engine = Engine(serving.url, key, plaintext=plaintext, loopback=loopback, pin=pin, door_key=door_key)
    return Seat(engine, model, serving.context, serving.usd_per_hour)


def why_not(deployment: Deployment, instance: Instance | None) -> str:
    """Why nobody can chat with it now, and what helps."""
    if instance is None:
        return f"{deployment.name} has no machine yet. It answers once it is Ready."
    word, state = instance.status.word, instance.status
    if state in (State.TERMINATED, State.TERMINATING, State.FAILED):
        return (
            f"{deployment.name} is {word}: its engine is gone. Launch a new one or pick another deployment."
        )
    if state in (State.STOPPED, State.STOPPING, State.DRAINING):
        return f"{deployment.name} is {word}. Start it to chat with it."
    return f"{deployment.name} is {word}. It answers once it is Ready."
