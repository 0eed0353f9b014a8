"""The open FOCUS validator on an export. It needs an environment of its own: tests/focus_venv.py."""

from __future__ import annotations

import pytest

from billing.exports import focus, lines
from panel.ui import csvfile
from tests import focus_venv
from tests.billing import books

pytestmark = [pytest.mark.focus, pytest.mark.django_db]


def test_the_validator_fails_nothing_but_the_invoices_that_we_do_not_get(tmp_path):
    books.rates()
    books.build()
    selection = lines.read({"from": "2026-10-01", "to": "2026-11-24", "by": "hour"}, today=books.NOW.date())
    file = tmp_path / "focus.csv"
    file.write_text("".join(csvfile.lines([focus.HEADER, *focus.Export(selection).rows()])), newline="")
    assert focus_venv.validate(file) == (1, ["InvoiceId-C-005-C"])
