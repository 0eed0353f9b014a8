"""A user's rights are those that Django would find, in one query."""

from __future__ import annotations

import pytest
from django.contrib.auth.backends import ModelBackend
from django.contrib.auth.models import Permission

from panel.accounts.models import User
from tests import factories

pytestmark = pytest.mark.django_db


def fresh(user: User) -> User:
    return User.objects.get(pk=user.pk)


def test_they_are_those_of_the_role_and_the_users_own_in_one_query(django_assert_num_queries) -> None:
    user = factories.viewer()
    user.user_permissions.add(Permission.objects.get(codename="drill_deployment"))
    asked, plain = fresh(user), fresh(user)
    with django_assert_num_queries(1):
        assert asked.has_perm("deployments.view_deployment")
        assert asked.has_perm("deployments.drill_deployment")
        assert not asked.has_perm("deployments.operate_deployment")
        assert asked.has_module_perms("billing")
    assert asked.get_all_permissions() == ModelBackend().get_all_permissions(plain)


def test_who_is_disabled_or_has_no_role_has_none() -> None:
    disabled = factories.administrator()
    User.objects.filter(pk=disabled.pk).update(is_active=False)
    assert not fresh(disabled).has_perm("deployments.view_deployment")
    assert not factories.user().has_perm("deployments.view_deployment")


def test_a_superuser_has_every_right() -> None:
    user = User.objects.create_superuser("root@example.com")
    assert user.has_perm("deployments.operate_deployment")
