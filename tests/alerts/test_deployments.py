"""What the reconciler raises is about its deployment, and a person's decision ends it."""

from __future__ import annotations

from datetime import timedelta

import pytest

from deployments import services
from panel.alerts.models import Delivery
from panel.alerts.routing import route
from panel.notices.notify import open_notices
from tests.alerts import made
from tests.deployments.conftest import endpoint, world  # noqa: F401  (fixtures)

pytestmark = pytest.mark.django_db


def test_a_rule_of_one_deployment_hears_of_it_alone_and_that_somebody_has_seen_to_it(world):  # noqa: F811
    mine, other = world.launch(), world.launch()
    made.rule(made.channel(), subjects=[str(mine.pk)])
    world.run()
    for deployment in (mine, other):
        type(deployment).objects.filter(pk=deployment.pk).update(stop_at=world.now - timedelta(seconds=1))
    world.run()
    assert {n.subject for n in open_notices()} == {mine.pk, other.pk}
    route(now=world.now)
    assert [d.message["deployment"] for d in Delivery.objects.all()] == [str(mine.pk)]
    mine.refresh_from_db()
    services.terminate(mine, actor=world.owner, now=world.now)
    assert [n.subject for n in open_notices()] == [other.pk]
    route(now=world.now)
    assert [d.occasion for d in Delivery.objects.order_by("pk")] == ["raised", "resolved"]
