"""Secrets in the database, and in what is taken out of it."""

from __future__ import annotations

from io import StringIO

import pytest
from django.core.management import call_command

from deployments.models import ProviderAccount

KEY = "rpa_a-key-that-must-not-be-dumped"


@pytest.mark.django_db
def test_a_dump_holds_no_secret_and_brings_it_back(tmp_path) -> None:
    account = ProviderAccount.objects.create(name="Cloud", backend="runpod", credentials=KEY)
    out = StringIO()
    call_command("dumpdata", "deployments.ProviderAccount", stdout=out)
    assert KEY not in out.getvalue()

    ProviderAccount.objects.all().delete()
    dump = tmp_path / "dump.json"
    dump.write_text(out.getvalue())
    call_command("loaddata", str(dump), verbosity=0)
    assert ProviderAccount.objects.get(pk=account.pk).credentials == KEY
