"""How the panel signs people in: allauth's flows, with the audit beside every act."""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network, ip_address
from typing import Any

from allauth.account.adapter import DefaultAccountAdapter
from django.contrib.auth import get_user_model
from django.contrib.auth.base_user import AbstractBaseUser
from django.db import transaction
from django.http import HttpRequest
from django.utils import timezone

from panel.audit import chain
from panel.context import client_address


class AccountAdapter(DefaultAccountAdapter):
    def is_open_for_signup(self, request: HttpRequest) -> bool:
        return False

    def get_client_ip(self, request: HttpRequest) -> str:
        # On a Unix socket nobody has an address; they share one limit.
        return counted_address(request) or "unknown"

    @transaction.atomic
    def login(self, request: HttpRequest, user: AbstractBaseUser) -> None:
        """The one place where a session is opened, by whatever way its owner came. Rotates the session's key."""
        super().login(request, user)
        by = getattr(request, "sign_in_by", "password")
        chain.record("account.sign_in", actor=user, target=user, after={"by": by}, now=timezone.now())

    def logout(self, request: HttpRequest) -> None:
        user = request.user if request.user.is_authenticated else None
        with transaction.atomic():
            super().logout(request)
            if user:
                chain.record("account.sign_out", actor=user, target=user, now=timezone.now())

    def authentication_failed(self, request: HttpRequest, **credentials: Any) -> None:
        # The address that was typed is personal data, maybe of a stranger: only a user's own id is noted.
        target = get_user_model().objects.filter(email__iexact=username_of(request, credentials)).first()
        locked = bool(getattr(request, "axes_locked_out", False))
        chain.record(
            "account.sign_in_failed", actor=None, target=target, after={"locked": locked}, now=timezone.now()
        )

    @transaction.atomic
    def set_password(self, user: AbstractBaseUser, password: str) -> None:
        """Changed, set for the first time or reset: each comes through here."""
        action = "account.password_change" if user.has_usable_password() else "account.password_set"
        super().set_password(user, password)
        chain.record(action, actor=user, target=user, now=timezone.now())


def counted_address(request: HttpRequest) -> str:
    """The address that attempts are counted by: an IPv6 network of 64 bits is one, as it is one customer's.

    Who has one has more addresses than anybody could block. Empty when there is no address (a Unix socket).
    """
    text = client_address(request)
    address = ip_address(text) if text else None
    if not isinstance(address, IPv6Address):
        return text
    if address.ipv4_mapped:
        return str(address.ipv4_mapped)
    return str(IPv6Network((address, 64), strict=False).network_address)


def username_of(request: HttpRequest | None, credentials: dict[str, Any] | None) -> str:
    """Whom a sign-in names, for django-axes: allauth's forms say `email`, Django's `username`.

    Never None: axes would then count everybody at an address together, and one attacker would lock out all.
    """
    given = credentials or {}
    name = given.get("email") or given.get("username")
    if not name and request is not None:
        name = request.POST.get("login") or request.POST.get("username")
    return str(name or "").strip().lower()[:254]
