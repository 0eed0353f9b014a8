"""How the purge stands, for the Compliance page."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from panel.privacy.models import LegalHold, PurgeRun
from panel.registers.sections import Fact, Section, contribute
from panel.ui.format import moment

LATE = timedelta(days=2)
"""A purge runs every day; one that was missed is made up for in the morning."""


def tell() -> None:
    """Contribute the section. Called when the app is ready."""
    contribute(
        Section("purge", "Purge", lambda now: list(_facts(now)), "privacy_retention", "Retention and purge")
    )


def _facts(now: datetime) -> Iterator[Fact]:
    run = PurgeRun.objects.exclude(ended_at=None).order_by("-started_at").first()
    if run is None:
        yield Fact("Last run", "never: it runs by itself once a day", "warn")
    else:
        late = now - run.started_at > LATE
        yield Fact("Last run", moment(run.started_at), "warn" if late or run.errors else "ok")
        yield Fact("Rows removed", f"{run.rows:,}")
        if run.errors:
            yield Fact("Could not be purged", ", ".join(sorted(run.errors)), "critical")
    if holds := LegalHold.objects.active(now).count():
        yield Fact("Legal holds", str(holds))
