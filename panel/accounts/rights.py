"""A user's rights in one query. Django's own backend asks two on every page: the user's, and those of the groups."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.models import Permission

from panel.accounts.models import User


class Rights:
    """Stands before Django's backend and reads for it. It signs nobody in, and grants nothing that one would not."""

    def authenticate(self, request: Any, **credentials: Any) -> None:
        return None

    def has_perm(self, user: Any, perm: str, obj: Any = None) -> bool:
        """False leaves it to the backends behind, which find read what they would ask for."""
        if isinstance(user, User) and user.is_active and not user.is_superuser and obj is None:
            # Where Django's backend keeps what it has read, and looks first.
            rights: set[str] | None = getattr(user, "_perm_cache", None)
            if rights is None:
                rights = user._perm_cache = _rights(user)  # type: ignore[attr-defined]
            return perm in rights
        return False


def _rights(user: User) -> set[str]:
    """Those given to the user and those of the user's groups, as "app.codename"."""
    fields = ("content_type__app_label", "codename")
    own = Permission.objects.filter(user=user).order_by().values_list(*fields)
    role = Permission.objects.filter(group__user=user).order_by().values_list(*fields)
    return {f"{app}.{name}" for app, name in own.union(role).order_by()}
