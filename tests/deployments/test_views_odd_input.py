"""Whatever an address or a form says, a page answers: with a sentence or a default, never with an error of its own."""

from urllib.parse import urlencode

import pytest
from django.utils import timezone

from deployments import services
from deployments.models import Deployment, Offer
from tests import factories
from tests.browser import scene

pytestmark = pytest.mark.django_db

ODD = [
    "", "-1", "1.5", "9" * 19, "9" * 400, "9" * 5000, "sNaN", "-Infinity", "1e999999", "a\0b", "<script>alert(1)</script>", "é" * 300,
    "٣", "9999-12-31T23:59", "00:00", "../../etc/passwd", "Europe",
]  # fmt: skip
LAUNCH = [
    "context", "concurrency", "purpose", "policy", "price_ceiling", "plan_b", "stop_at", "delete_at", "schedule_days",
    "schedule_from", "schedule_until", "time_zone", "bid_usd_per_hour", "bid_ceiling", "bid_policy", "countries", "offer", "name",
    "launch_key", "usual",
]  # fmt: skip
FILTERS = [
    "provider",
    "tier",
    "gpu",
    "vram",
    "country",
    "max_price",
    "certified",
    "suitable",
    "sort",
    "reverse",
    "show",
]
COMPARE = ["context", "concurrency", "purpose", "where", "countries", "budget", "busy_hours", "prices"]
SETTINGS = [
    "name", "policy", "purpose", "price_ceiling", "plan_b", "stop_at", "delete_at", "schedule_days", "schedule_from",
    "schedule_until", "time_zone", "bid_policy", "bid_ceiling", "context", "allow_plaintext", "allowed_countries",
]  # fmt: skip


@pytest.fixture
def operator(client):
    scene.build(now=timezone.now())
    client.force_login(factories.operator())
    return client


@pytest.fixture
def form(operator):
    """A launch that would be taken, on this computer."""
    return {
        "model": "smollm2-135m", "context": "4096", "countries": ["CZ", "FR"], "offer": str(Offer.objects.get(key="cpu").pk),
        "name": "odd one", "launch_key": "one",
    }  # fmt: skip


def get(client, path, values):
    return client.get(f"{path}?{urlencode(values, doseq=True)}")


PAGES = [
    ("/launch/?model=qwen3-4b-awq&", LAUNCH),
    ("/launch/?", FILTERS),
    ("/compare/?", COMPARE),
    ("/deployments/?", ["page", "q", "show"]),
    ("/radar/?", ["hidden"]),
]


@pytest.mark.parametrize(("page", "names"), PAGES)
def test_a_page_answers_whatever_its_address_says(operator, page, names):
    for value in ODD:
        assert operator.get(page + urlencode(dict.fromkeys(names, value))).status_code == 200, value


def test_the_settings_answer_whatever_is_typed(operator):
    d = Deployment.objects.wanted().filter(model_key="smollm2-135m").first()
    for value in ODD:
        typed = dict.fromkeys(SETTINGS, value) | {"seen": "x"}
        assert get(operator, d.get_absolute_url(), typed | {"tab": "settings"}).status_code == 200, value
        assert operator.post(f"{d.get_absolute_url()}settings/", typed).status_code == 422, value


@pytest.mark.parametrize(
    ("zone", "date"),
    [("Pacific/Kiritimati", "0001-01-01T00:00"), ("America/Los_Angeles", "9999-12-31T23:59")],
)
def test_a_date_at_the_end_of_time_is_answered_in_every_zone(operator, form, zone, date):
    odd = form | {"stop_at": date, "delete_at": date, "time_zone": zone}
    assert get(operator, "/launch/", odd).status_code == 200
    response = operator.post("/launch/", odd)
    assert response.status_code == 422
    assert "date" in response.content.decode()


def test_a_day_that_is_sent_twice_is_one_day(operator, form, rung):
    hours = {"schedule_days": ["1", "3", "1"] * 9, "schedule_from": "08:00", "schedule_until": "20:00"}
    operator.post("/launch/", form | hours)
    assert Deployment.objects.get(name="odd one").schedule_days == "13"


def test_a_country_that_is_sent_twice_is_one_country(operator, form, rung):
    operator.post("/launch/", form | {"countries": ["FR"] * 900})
    assert Deployment.objects.get(name="odd one").allowed_countries == ["FR"]


def test_a_launch_cannot_pass_for_a_machine_that_was_found(operator, form):
    assert operator.post("/launch/", form | {"launch_key": f"{services.ADOPTABLE}mine"}).status_code == 422
    assert not Deployment.objects.filter(name="odd one").exists()


def test_machines_that_no_list_shows_are_answered(operator):
    for number in ("0", "9" * 19, "9" * 400):
        assert operator.post(f"/radar/{number}/terminate/").status_code == 302
    assert operator.get(f"/radar/{'9' * 5000}/terminate/").status_code == 404
