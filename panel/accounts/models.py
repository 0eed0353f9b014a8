"""Who may sign in, and the one-time links that let them."""

from __future__ import annotations

import hashlib
import secrets
from datetime import datetime
from typing import Any, ClassVar

from django.conf import settings
from django.contrib.auth.base_user import AbstractBaseUser, BaseUserManager
from django.contrib.auth.models import PermissionsMixin
from django.db import models
from django.db.models.functions import Lower
from django.utils import timezone


class UserManager(BaseUserManager["User"]):
    def create_user(self, email: str, password: str | None = None, **extra: Any) -> User:
        """A user without a role; with no password they sign in by link until they set one."""
        if not email:
            raise ValueError("A user needs an e-mail address.")
        user = self.model(email=self.normalize_email(email).lower(), **extra)
        user.set_password(password)
        user.save(using=self._db)
        return user

    def create_superuser(self, email: str, password: str | None = None, **extra: Any) -> User:
        return self.create_user(email, password, **{**extra, "is_staff": True, "is_superuser": True})


class User(AbstractBaseUser, PermissionsMixin):
    """A member of the team. Their rights come from the role's group (`roles.py`)."""

    email = models.EmailField("e-mail address", unique=True)
    name = models.CharField(max_length=120, blank=True)
    is_staff = models.BooleanField("may open the admin site", default=False)
    is_active = models.BooleanField(default=True)
    date_joined = models.DateTimeField(default=timezone.now)

    objects: ClassVar[UserManager] = UserManager()

    USERNAME_FIELD = "email"
    EMAIL_FIELD = "email"

    class Meta:
        constraints = [models.UniqueConstraint(Lower("email"), name="accounts_user_email_ci")]

    def __str__(self) -> str:
        return self.name or self.email

    def get_full_name(self) -> str:
        return str(self)

    def get_short_name(self) -> str:
        return self.name or self.email.partition("@")[0]


class SignInLink(models.Model):
    """A link that signs its user in once. Only the token's SHA-256 is kept."""

    user = models.ForeignKey(User, on_delete=models.CASCADE)
    token_hash = models.CharField(max_length=64, unique=True)
    created_at = models.DateTimeField(default=timezone.now)
    expires_at = models.DateTimeField()
    used_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return f"link for user {self.user_id}"

    @classmethod
    def issue(cls, user: User, *, now: datetime) -> str:
        """A fresh token for `user`, good for `SIGN_IN_LINK_LIFETIME`. It is returned once and not kept."""
        token = secrets.token_urlsafe(32)
        cls.objects.create(
            user=user,
            token_hash=_digest(token),
            created_at=now,
            expires_at=now + settings.SIGN_IN_LINK_LIFETIME,
        )
        return token

    @classmethod
    def redeem(cls, token: str, *, now: datetime) -> User | None:
        """The link's user, once; None for a wrong, used or expired token or a disabled user."""
        # No join in this UPDATE: PostgreSQL would look the join up in its snapshot and let two redeem it at once.
        links = cls.objects.filter(token_hash=_digest(token), used_at=None, expires_at__gt=now)
        if not links.update(used_at=now):
            return None
        user = cls.objects.select_related("user").get(token_hash=_digest(token)).user
        return user if user.is_active else None

    @classmethod
    def works(cls, token: str, *, now: datetime) -> bool:
        """Whether `redeem` would sign somebody in now."""
        links = cls.objects.filter(token_hash=_digest(token), used_at=None, expires_at__gt=now)
        return links.filter(user__is_active=True).exists()

    @classmethod
    def knows(cls, token: str) -> bool:
        """Whether such a link was ever made, be it used or expired by now."""
        return cls.objects.filter(token_hash=_digest(token)).exists()


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
