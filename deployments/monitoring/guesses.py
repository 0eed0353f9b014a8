"""What probably caused it, in words for an operator, from what a row holds. Pure."""

from __future__ import annotations

from deployments.lifecycle import State
from deployments.models import Instance


def of_down(i: Instance) -> str:
    """What probably took it down, from what its provider and its probes said last."""
    said = i.observed_detail and f" Its provider says: {i.observed_detail.rstrip('.')}."
    if i.observed == "exited":
        return f"The engine ended by itself: out of memory, a crash, or its container was ended.{said}"
    if i.locked:
        return f"Its provider has locked it.{said}"
    if i.missing_lists:
        return "Its provider no longer lists the machine: it was ended there, or its host is gone."
    if i.drift:
        return f"Its provider changed it: {i.drift}"
    if i.status is State.DEGRADED:
        return f"{_by_probe(i)}{said}"
    return _sentence(i.reason) and f"{_sentence(i.reason)}{said}"


_WAIT = " It is not relaunched: "


def with_wait(guess: str, why: str) -> str:
    """The guess, and why nothing replaces the machine; a guess that says so already says it once."""
    guess = guess.partition(_WAIT)[0]
    return f"{guess}{_WAIT}{why}"[:500] if why else guess


_SIGNS = (
    ("refused", "Nothing listens at its address: the engine or the machine's door has ended."),
    ("no answer within", "It accepts or loses requests without an answer: the engine hangs, or its network is gone."),
    ("answered 401", "It refuses its own key: it was started again with an older one."),
    ("answered 5", "It answers with errors: look at the engine's log."),
    ("TLS", "It cannot be trusted: its certificate is not the one that it was given."),
    ("certificate", "It cannot be trusted: its certificate is not the one that it was given."),
)  # fmt: skip


def _by_probe(i: Instance) -> str:
    for sign, words in _SIGNS:
        if sign in i.probe_detail:
            return f"{words} The last probe: {i.probe_detail.rstrip('.')}."
    if i.probe_detail:
        return f"Its probes fail: {i.probe_detail.rstrip('.')}."
    return _sentence(i.reason) or "It does not answer its probes."


def _sentence(reason: str) -> str:
    reason = reason.rstrip(".")
    return f"{reason[:1].upper()}{reason[1:]}." if reason else ""


_STUCK = {
    State.REQUESTED: "It could not be asked for: its account is blocked, or calls to it are held back.",
    State.UNKNOWN: "The provider's answer to the order was unclear. Two complete lists decide; none has come.",
    State.PROVISIONING: "The provider took the order and has not placed the machine: out of stock, or a slow host.",
    State.PULLING: "The image is being pulled: a slow registry or a slow line of the host.",
    State.LOADING: "The weights are being fetched or loaded: a slow line or disk, or the engine fails and starts again.",
    State.WARMING: "The engine is up and does not pass its first probe.",
}


def of_stuck(i: Instance) -> str:
    """What probably keeps it in its phase."""
    words = i.account.blocked if i.status is State.REQUESTED and i.account.blocked else _STUCK[i.status]
    return f"{words} {i.probe_detail}".strip()
