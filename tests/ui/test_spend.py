"""The Spend page and a machine's bill."""

import pytest
from django.utils import timezone

from tests import factories
from tests.browser import scene

pytestmark = pytest.mark.django_db


@pytest.fixture
def made():
    return scene.build(now=timezone.now())


def test_smoke(client, made):
    client.force_login(made.administrator)
    from billing.breakdown import GROUPS
    for g in GROUPS:
        for r in ("today","12m","90d"):
            a = client.get(f"/spend/?group={g}&range={r}")
            assert a.status_code == 200
    page = client.get("/spend/").content.decode()
    import re
    print(re.sub(r"<svg.*?</svg>|<path[^>]*>","",page,flags=re.S)[3000:])
    b = client.get("/spend/spend.csv")
    print(b.getvalue().decode())
    from billing.models import Subject
    for s in Subject.objects.all():
        a = client.get(f"/spend/machine/{s.pk}/")
        assert a.status_code == 200
    print(re.sub(r"<svg.*?</svg>|<path[^>]*>","",a.content.decode(),flags=re.S)[3000:])
