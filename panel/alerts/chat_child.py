"""`python -m panel.alerts.chat_child`: sends messages by Apprise, an order a line on stdin, an answer a line on stdout.

Every connection of this process is judged by the address it really goes to, so neither a name that leads into
a private network nor a redirect gets anywhere. It ends with its input: when whoever started it is done, or dead.
Django is not needed here.
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
    # Apprise and what it imports may print; our answers must stand alone.
    out, sys.stdout = sys.stdout, sys.stderr
    guard = Guard()
    guard.stand()
    said = _Listener()
    logging.getLogger("apprise").addHandler(said)
    while line := sys.stdin.readline():
        order = json.loads(line)
        # Nothing of an order is left for the next.
        guard.private, guard.refused = bool(order["private"]), False
        said.texts.clear()
        print(json.dumps(answer(order, guard, said)), file=out, flush=True)


class Guard:
    """Lets this process connect only to where it may; `refused`: it wanted to go elsewhere."""

    def __init__(self) -> None:
        self.private = False
        self.refused = False

    def stand(self) -> None:
        connect, connect_ex = socket.socket.connect, socket.socket.connect_ex

        def guarded(sock: socket.socket, address: Any) -> None:
            self._judge(sock, address)
            return connect(sock, address)

        def guarded_ex(sock: socket.socket, address: Any) -> int:
            self._judge(sock, address)
            return connect_ex(sock, address)

        socket.socket.connect = guarded  # type: ignore[assignment,method-assign]
        socket.socket.connect_ex = guarded_ex  # type: ignore[assignment,method-assign]

    def _judge(self, sock: socket.socket, address: Any) -> None:
        inet = sock.family in (socket.AF_INET, socket.AF_INET6)
        if not (inet and is_allowed(str(address[0]), loopback=self.private, private=self.private)):
            self.refused = True
            raise Refused("Its name leads into a private network, so nothing is sent there.")


def answer(order: dict[str, Any], guard: Guard, said: _Listener) -> dict[str, Any]:
    import apprise

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
    status = next((int(found[1]) for text in reversed(said.texts) if (found := _STATUS.search(text))), 0)
    return {"ok": False, "status": status, "why": _why(name, status, refused=guard.refused)}


def _why(name: str, status: int, *, refused: bool) -> str:
    if refused:
        return "Its name leads into a private network, so nothing is sent there."
    return f"{name} answered {status}." if status else f"{name} was not reached, or did not take it."


class _Listener(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


if __name__ == "__main__":
    main()
