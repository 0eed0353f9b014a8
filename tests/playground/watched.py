"""The panel's ASGI application that also tells how many tasks its loop holds: `uvicorn tests.playground.watched:application`."""

from __future__ import annotations

import asyncio
import gc
import json
from typing import Any

from panel.asgi import application as _panel


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope.get("path") != "/__tasks":
        await _panel(scope, receive, send)
        return
    gc.collect()
    me = asyncio.current_task()
    names = sorted(repr(t.get_coro()) for t in asyncio.all_tasks() if t is not me)
    body = json.dumps(names).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})
