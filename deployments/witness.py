"""A second witness: before a list's silence counts as a machine's end, the provider is asked for it by its id.

A list that wrongly leaves out one or two machines looks like their end, and the guard against mass disappearance
sees only more. So the list that would prove the end is not enough by itself: what stands by its id stands.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import datetime, timedelta
from uuid import UUID

from deployments import calls
from deployments.calls import Call
from deployments.decide import LISTS_THAT_PROVE
from deployments.models import Instance, ProviderAccount
from deployments.providers.base import Provider, ProviderError

logger = logging.getLogger(__name__)

SILENT = timedelta(minutes=30)
"""A provider that does not say for so long leaves it to its lists."""


def spared(
    account: ProviderAccount, adapter: Provider, missing: Iterable[Instance], *, now: datetime
) -> set[UUID]:
    """Those of the `missing` rows that this list must not count as missing: they stand, or nobody says.

    One request for each machine that would be proved gone now, outside any transaction, and for no more than may
    be asked at once: the others count as there until the next list.
    """
    found: set[UUID] = set()
    for n, row in enumerate(row for row in missing if _would_prove(row)):
        stands = _stands(account, adapter, row, now=now) if n < adapter.traits.asked_at_once else None
        if stands:
            logger.warning("%s: its list leaves out %s, which stands", account, row.label)
        if stands or (stands is None and not _silent_for_long(row, now=now)):
            found.add(row.pk)
    return found


def _would_prove(row: Instance) -> bool:
    return bool(row.remote_id) and row.missing_lists == LISTS_THAT_PROVE - 1


def _stands(account: ProviderAccount, adapter: Provider, row: Instance, *, now: datetime) -> bool | None:
    """None: it was not said."""
    try:
        return calls.ask(account, Call.READ, lambda: adapter.stands(row.remote_id), now=now)
    except ProviderError:
        return None
    except Exception as e:
        # HTML, null where an object should be: nothing is said of the machine.
        logger.warning("%s: what it says of %s cannot be read (%s)", account, row.label, type(e).__name__)
        return None


def _silent_for_long(row: Instance, *, now: datetime) -> bool:
    return row.missing_since is not None and now - row.missing_since > SILENT
