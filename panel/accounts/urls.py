"""The account pages: the one-time link, and those of allauth's that a closed team needs.

allauth's e-mail pages are left out: an administrator says which address is whose.
"""

from allauth.account import views as allauth
from django.urls import path, re_path

from panel.accounts.views import only_with_mail, sign_in_link

_RESET_KEY = r"^accounts/password/reset/key/(?P<uidb36>[0-9A-Za-z]+)-(?P<key>.+)/$"

urlpatterns = [
    path("sign-in/<str:token>/", sign_in_link, name="sign_in_link"),
    path("accounts/login/", allauth.login, name="account_login"),
    path("accounts/logout/", allauth.logout, name="account_logout"),
    path("accounts/inactive/", allauth.account_inactive, name="account_inactive"),
    path("accounts/signup/", allauth.signup, name="account_signup"),
    path("accounts/reauthenticate/", allauth.reauthenticate, name="account_reauthenticate"),
    path("accounts/password/change/", allauth.password_change, name="account_change_password"),
    path("accounts/password/set/", allauth.password_set, name="account_set_password"),
    path("accounts/password/reset/", only_with_mail(allauth.password_reset), name="account_reset_password"),
    path(
        "accounts/password/reset/done/",
        only_with_mail(allauth.password_reset_done),
        name="account_reset_password_done",
    ),
    re_path(
        _RESET_KEY, only_with_mail(allauth.password_reset_from_key), name="account_reset_password_from_key"
    ),
    path(
        "accounts/password/reset/key/done/",
        only_with_mail(allauth.password_reset_from_key_done),
        name="account_reset_password_from_key_done",
    ),
]
