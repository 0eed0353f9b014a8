"""Accounts in the browser: what a key may do is asked by a worker, and the key itself is never seen again."""

import json
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest
from django.db import connection
from django.urls import reverse
from django.utils import timezone

from deployments import accounts, tasks
from deployments.models import Breaker, ProviderAccount
from deployments.models.account import ADAPTERS
from deployments.providers.base import Balance, Right, Unauthorized, Unavailable
from panel import sandbox
from panel.audit.models import AuditEvent
from panel.notices.models import Notice
from panel.notices.notify import open_notices, raise_notice
from tests import factories
from tests.browser import scene
from tests.conftest import NOW
from tests.providers.fakecloud import FakeCloud

pytestmark = pytest.mark.django_db

KEY = "rpa_PLANTED0SECRET0KEY"
ALL = (Right("catalogue", ok=True), Right("balance", ok=True), Right("instances", ok=True))


class Told(FakeCloud):
    """A cloud that answers what a test says: a value, or an error to raise."""

    def __init__(self) -> None:
        super().__init__()
        self.answers = {"rights": ALL, "balance": Balance(usd=Decimal("12.50"))}
        self.asked: list[str] = []

    def _answer(self, name):
        self.asked.append(name)
        if isinstance(self.answers[name], Exception):
            raise self.answers[name]
        return self.answers[name]

    def rights(self):
        return self._answer("rights")

    def balance(self):
        return self._answer("balance")


@pytest.fixture
def cloud(monkeypatch):
    told = Told()
    monkeypatch.setitem(ADAPTERS, "runpod", lambda account: told)
    return told


@pytest.fixture
def account(db):
    return ProviderAccount.objects.create(name="Cloud", backend="runpod", credentials=KEY)


@pytest.fixture
def admin(client):
    client.force_login(factories.administrator())
    return client


def text(response):
    return response.content.decode()


def form(**values):
    return {
        "backend": "runpod",
        "name": "Cloud",
        "key": KEY,
        "company_country": "US",
        "dpa_reference": "folder 14",
    } | values


def bells(rung):
    return [args for name, args in rung if name == accounts.CHECK]


# -- the operator's verbs ----------------------------------------------------------------------------


def test_an_account_is_added_with_its_key_encrypted_and_its_test_is_rung(
    admin, rung, django_capture_on_commit_callbacks
):
    with django_capture_on_commit_callbacks(execute=True):
        page = text(admin.post(reverse("provider_account_add"), form(), follow=True))
    made = ProviderAccount.objects.get()
    assert made.credentials == KEY
    assert bells(rung) == [(str(made.pk),)]
    assert "Being tested" in page
    with connection.cursor() as cursor:
        cursor.execute("SELECT credentials FROM deployments_provideraccount")
        assert KEY not in cursor.fetchone()[0]


def test_one_provider_has_several_accounts_but_no_two_of_one_name(admin, account):
    assert admin.post(reverse("provider_account_add"), form(name="Another")).status_code == 302
    page = admin.post(reverse("provider_account_add"), form(name="Cloud"))
    assert page.status_code == 422
    assert "Another account has this name." in text(page)
    assert ProviderAccount.objects.count() == 2


@pytest.mark.parametrize(
    ("key", "sentence"),
    [
        ("", "Paste the key."),
        ("  \n ", "Paste the key."),
        ("rpa_PLANTED0 SECRET0KEY", "There is a space or a line break inside"),
        ("rpa_PLANTED0\nSECRET0KEY", "There is a space or a line break inside"),
        ("rpa_PLANTED0SECRET0" * 30, "longer than 500 characters"),
        ("rpa_PLANTED0SECRÉT0KEY", "characters that no key holds"),
        ("rpa_PLANTED0\x07SECRET0KEY", "characters that no key holds"),
    ],
)
def test_what_is_no_key_is_refused_with_a_sentence_and_not_repeated(admin, account, key, sentence):
    for path, data in (
        (reverse("provider_account_add"), form(name="Another", key=key)),
        (reverse("provider_account_action", args=[account.pk, "rotate"]), {"key": key}),
    ):
        page = admin.post(path, data)
        assert page.status_code == 422
        assert sentence in text(page)
        assert "PLANTED0" not in text(page)
    account.refresh_from_db()
    assert account.credentials == KEY


def test_what_a_paste_brings_along_is_trimmed(admin):
    admin.post(reverse("provider_account_add"), form(key=f"  {KEY}\r\n"))
    assert ProviderAccount.objects.get().credentials == KEY


def test_a_new_key_forgets_what_the_old_one_was_told(
    admin, account, rung, django_capture_on_commit_callbacks
):
    Breaker.objects.create(account=account, call="list", failures=4, open_until=NOW + timedelta(days=900))
    ProviderAccount.objects.filter(pk=account.pk).update(
        rights=[{"name": "balance", "ok": True}],
        rights_at=NOW,
        balance_usd=7,
        balance_at=NOW,
        create_refused="no right",
    )
    with django_capture_on_commit_callbacks(execute=True):
        admin.post(reverse("provider_account_action", args=[account.pk, "rotate"]), {"key": "rpa_fresh"})
    account.refresh_from_db()
    assert account.credentials == "rpa_fresh"
    assert (account.rights, account.rights_at, account.balance_usd, account.create_refused) == (
        [],
        None,
        None,
        "",
    )
    assert not account.breakers.exists()
    assert bells(rung) == [(str(account.pk),)]


def test_an_account_of_public_prices_gets_its_first_key(admin):
    account = ProviderAccount.objects.create(name="Public", backend="vast")
    assert "Give it a key" in text(admin.get(reverse("provider_accounts")))
    admin.post(reverse("provider_account_action", args=[account.pk, "rotate"]), {"key": KEY})
    account.refresh_from_db()
    assert not account.public_only
    assert AuditEvent.objects.get(action="provideraccount.rotate").reason == "its first key"


def test_an_added_account_takes_the_place_of_its_providers_public_prices(admin):
    public = ProviderAccount.objects.create(name="RunPod · public prices", backend="runpod")
    other = ProviderAccount.objects.create(name="Vast.ai · public prices", backend="vast")
    wish = {"backend": "runpod", "name": "Ours", "key": KEY, "company_country": "US"}
    admin.post(reverse("provider_account_add"), wish)
    public.refresh_from_db()
    assert (public.name, public.credentials, public.public_only) == ("Ours", KEY, False)
    # It had one: a second account at the same provider is another one, and no key is ever overwritten.
    admin.post(reverse("provider_account_add"), wish | {"name": "Second", "key": f"{KEY}2"})
    public.refresh_from_db()
    assert public.credentials == KEY
    assert set(ProviderAccount.objects.values_list("name", flat=True)) == {"Ours", "Second", other.name}


def test_the_sandbox_asks_for_no_real_key_and_says_its_own(admin, account, settings):
    paths = [reverse("provider_account_add"), reverse("provider_account_action", args=[account.pk, "rotate"])]
    assert not any("do not paste a real key" in text(admin.get(path)) for path in paths)
    settings.SANDBOX = True
    for path in paths:
        assert "do not paste a real key" in text(admin.get(path))
        assert sandbox.KEY in text(admin.get(path))


def test_a_disabled_account_whose_test_was_lost_can_be_tested_again(admin, account):
    path = reverse("provider_accounts")
    assert f'id="test-{account.pk}" disabled' in text(admin.get(path))
    ProviderAccount.objects.update(enabled=False)
    assert f'id="test-{account.pk}">' in text(admin.get(path))


def test_disabling_says_what_still_stands_there_and_that_it_bills_on(client):
    made = scene.build(now=NOW)
    client.force_login(made.administrator)
    path = reverse("provider_account_action", args=[made.account.pk, "disable"])
    page = text(client.get(path))
    for words in (
        "5 machines of ours stand there",
        "support-assistant",
        "They go on being watched and billed",
    ):
        assert words in page
    client.post(path)
    made.account.refresh_from_db()
    assert not made.account.enabled
    assert "already" in text(client.post(path, follow=True))
    client.post(reverse("provider_account_action", args=[made.account.pk, "enable"]))
    made.account.refresh_from_db()
    assert made.account.enabled


@pytest.mark.parametrize("action", ["delete", "rotate2", "TEST"])
def test_an_act_that_does_not_exist_is_404(admin, account, action):
    assert admin.post(reverse("provider_account_action", args=[account.pk, action])).status_code == 404


def test_this_computer_needs_no_key(admin):
    local = ProviderAccount.objects.create(name="This computer", backend="local")
    page = text(admin.get(reverse("provider_account_action", args=[local.pk, "rotate"])))
    assert "needs no key" in page
    assert (
        admin.post(reverse("provider_account_action", args=[local.pk, "rotate"]), {"key": KEY}).status_code
        == 422
    )
    assert "There is no key to test." in text(
        admin.post(reverse("provider_account_action", args=[local.pk, "test"]), follow=True)
    )


# -- the test of a key -------------------------------------------------------------------------------


def test_the_page_never_asks_a_provider(admin, account, cloud):
    admin.get(reverse("provider_accounts"))
    admin.post(reverse("provider_account_action", args=[account.pk, "test"]))
    assert "Being tested" in text(admin.get(reverse("provider_accounts")))
    assert cloud.asked == []


def test_the_page_polls_quickly_until_the_answer_is_there(admin, account, cloud):
    assert 'hx-trigger="every 2s' in text(admin.get(reverse("provider_accounts")))
    tasks.check_account(str(account.pk))
    page = text(admin.get(reverse("provider_accounts")))
    assert 'hx-trigger="every 15s' in page
    for words in ("catalogue: yes", "balance: yes", "instances: yes", "$12.50"):
        assert words in page


def test_a_missing_right_is_named_with_where_to_give_it(admin, account, cloud):
    lacking = Right("instances", ok=False, detail=f"{KEY} lacks instance_read. Give it in the console.")
    cloud.answers["rights"] = (*ALL[:2], lacking)
    accounts.check(account.pk, now=NOW)
    page = text(admin.get(reverse("provider_accounts")))
    assert "instances: no" in page
    assert "lacks instance_read. Give it in the console." in page
    assert KEY not in page


def test_good_rights_lift_what_a_bad_key_blocked(account, cloud):
    raise_notice(f"account-key:{account.pk}", Notice.Severity.CRITICAL, "refused", now=NOW)
    ProviderAccount.objects.filter(pk=account.pk).update(
        create_refused="may not rent", creates_blocked="refused"
    )
    accounts.check(account.pk, now=NOW)
    account.refresh_from_db()
    assert (account.create_refused, account.creates_blocked) == ("", "")
    assert not open_notices().exists()


def test_bad_rights_and_a_frozen_list_lift_nothing(account, cloud):
    blocked = ProviderAccount.objects.filter(pk=account.pk)
    blocked.update(create_refused="may not rent", creates_blocked="refused")
    cloud.answers["rights"] = (Right("catalogue", ok=False),)
    accounts.check(account.pk, now=NOW)
    assert blocked.get().create_refused == "may not rent"
    cloud.answers["rights"] = ALL
    raise_notice(f"mass-disappearance:{account.pk}", Notice.Severity.CRITICAL, "frozen", now=NOW)
    accounts.check(account.pk, now=NOW)
    assert (blocked.get().create_refused, blocked.get().creates_blocked) == ("", "refused")


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (Unavailable(f"not reached with {KEY}"), "not reached with ***"),
        (ValueError(KEY), "cannot be read (ValueError)"),
    ],
)
def test_a_failed_test_becomes_text_without_the_key(account, cloud, error, sentence):
    cloud.answers = {"rights": error, "balance": error}
    accounts.check(account.pk, now=NOW)
    account.refresh_from_db()
    assert sentence in account.rights[0]["detail"]
    assert KEY not in json.dumps(account.rights)
    assert account.rights_at == NOW


def test_the_answer_for_an_old_key_is_not_written_over_a_new_one(account, cloud, monkeypatch):
    actor = factories.administrator()

    def rights():
        accounts.rotate(account, "rpa_fresh", actor=actor, now=NOW)
        return ALL

    monkeypatch.setattr(cloud, "rights", rights)
    accounts.check(account.pk, now=NOW)
    account.refresh_from_db()
    assert account.credentials == "rpa_fresh"
    assert account.rights_at is None


# -- the balance -------------------------------------------------------------------------------------


def test_the_balance_is_read_each_ten_minutes(account, cloud):
    accounts.check(account.pk, now=NOW)
    cloud.asked.clear()
    accounts.balances_due(now=NOW + timedelta(minutes=9))
    assert cloud.asked == []
    cloud.answers["balance"] = Balance(usd=Decimal("11.00"))
    accounts.balances_due(now=NOW + timedelta(minutes=10))
    account.refresh_from_db()
    assert (account.balance_usd, account.balance_at) == (Decimal("11.00"), NOW + timedelta(minutes=10))


def test_a_balance_that_is_refused_is_unknown_and_one_that_cannot_be_asked_keeps_its_age(account, cloud):
    accounts.check(account.pk, now=NOW)
    cloud.answers["balance"] = Unavailable("down")
    accounts.balances_due(now=NOW + timedelta(minutes=20))
    account.refresh_from_db()
    assert (account.balance_usd, account.balance_at) == (Decimal("12.50"), NOW)
    cloud.answers["balance"] = Unauthorized("no right")
    accounts.balances_due(now=NOW + timedelta(minutes=30))
    account.refresh_from_db()
    assert (account.balance_usd, account.balance_at) == (None, NOW + timedelta(minutes=30))


def test_a_lost_bell_is_rung_again_by_the_clock(account, cloud):
    accounts.balances_due(now=NOW)
    account.refresh_from_db()
    assert account.rights_at == NOW


def test_a_disabled_account_is_asked_only_while_something_of_ours_stands_there(cloud):
    ProviderAccount.objects.create(name="Idle", backend="runpod", credentials=KEY, enabled=False)
    accounts.balances_due(now=NOW)
    assert cloud.asked == []
    made = scene.build(now=NOW)
    ProviderAccount.objects.exclude(pk=made.account.pk).update(backend="local")
    ProviderAccount.objects.filter(pk=made.account.pk).update(enabled=False, balance_at=None)
    accounts.balances_due(now=NOW)
    assert cloud.asked == ["balance"]


def test_one_account_whose_answer_is_odd_does_not_keep_the_others_from_theirs(account, cloud, monkeypatch):
    odd = ProviderAccount.objects.create(name="Odd", backend="vast", credentials=KEY)

    def build(_):
        raise ImportError("no such adapter")

    monkeypatch.setitem(ADAPTERS, "vast", build)
    accounts.balances_due(now=NOW)
    odd.refresh_from_db()
    account.refresh_from_db()
    assert "cannot be read (ImportError)" in odd.rights[0]["detail"]
    assert account.balance_usd == Decimal("12.50")


# -- who sees what -----------------------------------------------------------------------------------


def test_an_operator_sees_the_accounts_and_may_do_nothing(client):
    made = scene.build(now=timezone.now())
    client.force_login(factories.operator())
    page = text(client.get(reverse("provider_accounts")))
    for words in (
        "Vast.ai research",
        "The key lacks the right instance_read",
        "held back until",
        "$118.42",
        "n/a",
    ):
        assert words in page
    assert "/rotate/" not in page
    assert "provider_account_add" not in page
    assert (
        client.post(reverse("provider_account_action", args=[made.account.pk, "disable"])).status_code == 403
    )


def test_a_poll_without_news_is_304(admin, account, cloud):
    accounts.check(account.pk, now=NOW)
    ask = {"HX-Request": "true", "HX-Target": "accounts"}
    first = admin.get(reverse("provider_accounts"), headers=ask)
    assert "<html" not in text(first)
    again = admin.get(reverse("provider_accounts"), headers=ask | {"If-None-Match": first["ETag"]})
    assert again.status_code == 304


def test_the_list_asks_as_many_queries_with_more_accounts(admin, account, django_assert_max_num_queries):
    def ask():
        with django_assert_max_num_queries(12) as asked:
            admin.get(reverse("provider_accounts"))
        return len(asked)

    few = ask()
    for n in range(12):
        ProviderAccount.objects.create(name=f"more {n}", backend="vast", credentials=KEY)
    assert ask() == few


def test_the_admin_site_links_to_the_accounts_and_shows_no_key(admin, account):
    for path in (
        reverse("admin:deployments_provideraccount_changelist"),
        reverse("admin:deployments_provideraccount_change", args=[account.pk]),
    ):
        page = text(admin.get(path))
        assert reverse("provider_accounts") in page
        assert KEY not in page


def test_the_key_stands_nowhere_but_encrypted(admin, cloud, caplog, rung):
    cloud.answers["rights"] = (*ALL[:2], replace(ALL[2], ok=False, detail=f"no right for {KEY}"))
    cloud.answers["balance"] = Unavailable(f"not reached with {KEY}")
    admin.post(reverse("provider_account_add"), form())
    account = ProviderAccount.objects.get()
    admin.post(reverse("provider_account_action", args=[account.pk, "rotate"]), {"key": KEY})
    admin.post(reverse("provider_account_action", args=[account.pk, "test"]))
    accounts.check(account.pk, now=NOW)
    seen = [text(admin.get(reverse("provider_accounts")))]
    seen += [
        text(admin.get(reverse("provider_account_action", args=[account.pk, a]))) for a in ("rotate", "test")
    ]
    seen += [
        json.dumps(list(AuditEvent.objects.values()), default=str),
        caplog.text,
        json.dumps(rung, default=str),
    ]
    told = AuditEvent.objects.filter(target_type="deployments.provideraccount").order_by("sequence")
    actions = [event.action.partition(".")[2] for event in told]
    assert actions == ["create", "rotate", "test"]
    assert not [where for where in seen if KEY in where or KEY[-4:] in where]
