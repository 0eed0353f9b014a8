"""People in the admin site: who may sign in and in which role. Nobody gives what they do not have.

A superuser (the first administrator) is changed by superusers alone. Rights are roles; the single permissions
behind them are not for editing. People are deactivated, not deleted: their name stays behind their acts.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, ClassVar

from allauth.account.models import EmailAddress
from django import forms
from django.contrib import admin
from django.contrib.auth.models import Group
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST
from django.views.generic import RedirectView

from panel.accounts.models import SignInLink, User
from panel.accounts.roles import ADMINISTRATOR, ROLES
from panel.audit import chain
from panel.audit.admin import AuditedAdmin, actor_of


def enter(request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
    """The admin site's own sign-in page leads to where its visitor may be; who is nobody never comes here."""
    if not (request.user.is_authenticated and request.user.is_staff):
        raise PermissionDenied
    return redirect("admin:index")


# Roles are kept in the code (roles.py), and addresses in the user's own row. Their own admin modules are
# loaded first, so that what is taken back here has been registered.
for name in ("django.contrib.auth.admin", "allauth.account.admin"):
    import_module(name)
admin.site.unregister(Group)
admin.site.unregister(EmailAddress)

# One door: the panel's own pages, with their audit and their limits. The wrong role gets 403.
admin.site.login = enter  # type: ignore[method-assign]
admin.site.logout = RedirectView.as_view(pattern_name="account_logout")  # type: ignore[assignment]
admin.site.password_change = RedirectView.as_view(  # type: ignore[assignment]
    pattern_name="account_change_password"
)


class UserForm(forms.ModelForm):  # type: ignore[type-arg]
    role = forms.ChoiceField(choices=[(role, role.capitalize()) for role in ROLES])

    class Meta:
        model = User
        fields = ("email", "name", "is_active")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance.pk and "role" in self.fields:
            self.fields["role"].initial = role_of(self.instance)

    def clean_email(self) -> str:
        return str(self.cleaned_data["email"]).lower()

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        loses = not cleaned.get("is_active") or cleaned.get("role") != ADMINISTRATOR
        if loses and self.instance.pk and is_last_administrator(self.instance):
            raise ValidationError("This is the last active administrator: make another one first.")
        return cleaned


def role_of(user: User) -> str:
    """The user's role; empty without one."""
    mine = {group.name for group in user.groups.all()}
    return next((role for role in reversed(ROLES) if role in mine), "")


def is_last_administrator(user: User) -> bool:
    administrators = User.objects.filter(groups__name=ADMINISTRATOR, is_active=True)
    return administrators.filter(pk=user.pk).exists() and not administrators.exclude(pk=user.pk).exists()


@admin.register(User)
class UserAdmin(AuditedAdmin):
    form = UserForm
    change_form_template = "admin/accounts/user/change_form.html"
    list_display = ("__str__", "email", "role", "is_active", "is_superuser", "last_login")
    list_filter = ("is_active", "groups", "is_superuser", "last_login")
    search_fields = ("email", "name")
    ordering = ("email",)
    readonly_fields = ("is_superuser", "last_login", "date_joined")
    fields = ("email", "name", "role", "is_active", *readonly_fields)
    # Not the name nor the address: personal data stays out of the chain.
    audited: ClassVar = ("is_active", "role")

    @admin.display(description="role")
    def role(self, user: User) -> str:
        return role_of(user) or "none"

    def snapshot(self, obj: Any) -> dict[str, Any]:
        named = {name: value for name, value in self.unsaid(obj).items() if name in ("email", "name")}
        return {"is_active": obj.is_active, "role": role_of(obj), **named}

    def get_queryset(self, request: HttpRequest) -> QuerySet[User]:
        return super().get_queryset(request).prefetch_related("groups")

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest) -> bool:
        # A filter on the hash would tell it, character by character.
        return not lookup.startswith("password") and super().lookup_allowed(lookup, value, request)

    def get_fields(self, request: HttpRequest, obj: User | None = None) -> Any:
        return self.fields if obj else ("email", "name", "role")

    def has_change_permission(self, request: HttpRequest, obj: User | None = None) -> bool:
        return super().has_change_permission(request, obj) and may_manage(request.user, obj)

    def has_delete_permission(self, request: HttpRequest, obj: User | None = None) -> bool:
        return False

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:  # noqa: FBT001
        role = form.cleaned_data["role"]
        obj.is_staff = role == ADMINISTRATOR or obj.is_superuser
        left = change and not obj.is_active and User.objects.filter(pk=obj.pk, is_active=True).exists()
        if not change or left:
            # Who is let go is signed out everywhere, and stays so when let in again.
            obj.set_unusable_password()
        if left:
            SignInLink.objects.filter(user=obj, used_at=None).update(used_at=timezone.now())
        before = self.snapshot(User.objects.get(pk=obj.pk)) if change else None
        obj.save()
        # An address that was replaced must not sign in nor reset a password any more.
        EmailAddress.objects.filter(user=obj).exclude(email=obj.email).delete()
        obj.groups.set(Group.objects.filter(name=role))
        # The role is read anew: what was prefetched is the old one.
        self._record(request, User.objects.get(pk=obj.pk), "change" if change else "create", before)

    def get_urls(self) -> list[URLPattern]:
        link = self.admin_site.admin_view(never_cache(require_POST(self.link_view)))
        return [path("<int:pk>/sign-in-link/", link, name="accounts_user_link"), *super().get_urls()]

    def link_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """POST: make a one-time sign-in link and show it this once."""
        user = get_object_or_404(User, pk=pk, is_active=True)
        if not self.has_change_permission(request, user):
            raise PermissionDenied
        now = timezone.now()
        with transaction.atomic():
            token = SignInLink.issue(user, now=now)
            chain.record("sign_in_link.issue", actor=actor_of(request), target=user, now=now)
        link = request.build_absolute_uri(reverse("sign_in_link", args=[token]))
        context = {
            **self.admin_site.each_context(request),
            "title": "One-time sign-in link",
            "person": user,
            "link": link,
        }
        return TemplateResponse(request, "admin/accounts/user/link.html", context)


def may_manage(manager: Any, user: User | None) -> bool:
    """Whether `manager` may change `user` or sign them in: nobody but a superuser does so with a superuser."""
    return user is None or manager.is_superuser or not user.is_superuser
