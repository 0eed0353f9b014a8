from __future__ import annotations

import pytest

from tests import factories


@pytest.fixture
def boss(client):
    person = factories.administrator()
    client.force_login(person)
    return person
