"""`python -m panel.alerts.chat_child`: sends one message by Apprise, an order on stdin, the answer on stdout.

Every connection of this process is judged by the address it really goes to, so neither a name that leads into
a private network nor a redirect gets anywhere. Django is not needed here.
"""

from __future__ import annotations

import json
import logging
import re
import socket
import sys
from typing import Any

from panel.outbound import Refused, is_allowed

_STATUS = re.compile(r"error=(\d{3})")


def main() -> None:
    order = json.load(sys.stdin)
    refused = guard(private=bool(order["private"]))
    # Apprise and what it imports may print; our answer must stand alone.
    out, sys.stdout = sys.stdout, sys.stderr
    json.dump(answer(order, refused), out)


def guard(*, private: bool) -> list[str]:
    """Let this process connect only to where it may; what was refused is noted in the list."""
    refused: list[str] = []
    connect, connect_ex = socket.socket.connect, socket.socket.connect_ex

    def judge(self: socket.socket, address: Any) -> None:
        inet = self.family in (socket.AF_INET, socket.AF_INET6)
        if not (inet and is_allowed(str(address[0]), loopback=private, private=private)):
            refused.append(str(self.family))
            raise Refused("Its name leads into a private network, so nothing is sent there.")

    def guarded(self: socket.socket, address: Any) -> None:
        judge(self, address)
        return connect(self, address)

    def guarded_ex(self: socket.socket, address: Any) -> int:
        judge(self, address)
        return connect_ex(self, address)

    socket.socket.connect = guarded  # type: ignore[assignment,method-assign]
    socket.socket.connect_ex = guarded_ex  # type: ignore[assignment,method-assign]
    return refused


def answer(order: dict[str, Any], refused: list[str]) -> dict[str, Any]:
    import apprise

    said: list[str] = []
    logging.getLogger("apprise").addHandler(_Listener(said))
    asset = apprise.AppriseAsset(
        storage_mode=apprise.PersistentStoreMode.MEMORY, secure_logging=True, http_redirects=False
    )
    service = apprise.Apprise.instantiate(order["url"], asset=asset, suppress_exceptions=True)
    if service is None or isinstance(service, str):
        return {"ok": False, "why": "Apprise does not understand its address."}
    name = str(service.service_name)
    if order.get("only") == "check":
        return {"ok": True, "service": name}
    try:
        done = bool(service.notify(title=order["title"], body=order["body"], notify_type=order["type"]))
    except Exception:  # whatever a plug-in raises: only that it failed leaves this process
        done = False
    if done:
        return {"ok": True, "service": name}
    status = next((int(found[1]) for text in reversed(said) if (found := _STATUS.search(text))), 0)
    return {"ok": False, "status": status, "why": _why(name, status, refused)}


def _why(name: str, status: int, refused: list[str]) -> str:
    if refused:
        return "Its name leads into a private network, so nothing is sent there."
    return f"{name} answered {status}." if status else f"{name} was not reached, or did not take it."


class _Listener(logging.Handler):
    def __init__(self, said: list[str]) -> None:
        super().__init__(logging.WARNING)
        self.said = said

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


if __name__ == "__main__":
    main()
