"""Running the async side in a test, and leaving no connection behind."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from asgiref.sync import sync_to_async
from django.db import connections


def run[T](work: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run`, and then close what the thread of the sync code has opened."""

    async def all_of_it() -> T:
        try:
            return await work
        finally:
            await sync_to_async(connections.close_all)()

    return asyncio.run(all_of_it())
