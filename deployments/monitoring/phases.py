"""The phases of a launch: when each began, how long it took, and whether that is as usual. Pure.

    queue        asked for, until its image is pulled or its container runs
    pull         the image
    download     the weights, where they did not come with the image
    load         the weights into the GPU, until the engine answers
    warm         a first answer inside the machine, until it serves
    first token  of the first chat through its endpoint

The state's events bound them; the machine's own log, where it tells, is more exact.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from statistics import median

from deployments import progress
from deployments.lifecycle import PHASES, State
from deployments.models.launch import Launch
from deployments.providers.base import LogLine
from panel.ui.format import duration


class Phase(StrEnum):
    QUEUE = "queue"
    PULL = "pull"
    DOWNLOAD = "download"
    LOAD = "load"
    WARM = "warm"
    FIRST_TOKEN = "first_token"  # noqa: S105

    @property
    def words(self) -> str:
        """What the operator reads."""
        return _TITLES[self]


_TITLES = {
    Phase.QUEUE: "In the queue", Phase.PULL: "Pulling image", Phase.DOWNLOAD: "Downloading weights",
    Phase.LOAD: "Loading weights", Phase.WARM: "Warming up", Phase.FIRST_TOKEN: "First token",
}  # fmt: skip

Move = tuple[State, datetime]


@dataclass(frozen=True, slots=True)
class Span:
    """A phase from `began` on. `ended` None: it goes on."""

    phase: Phase
    began: datetime
    ended: datetime | None

    def took(self, now: datetime) -> timedelta:
        return max(timedelta(), (self.ended or now) - self.began)


@dataclass(frozen=True, slots=True)
class Way:
    """An attempt's way: its phases in order, without those that it did not go through."""

    began: datetime
    spans: tuple[Span, ...]
    ready_at: datetime | None
    over_at: datetime | None
    """When it ended in something else than Ready."""

    @property
    def going_on(self) -> bool:
        return self.ready_at is None and self.over_at is None


def way(moves: Sequence[Move], marks: Mapping[str, datetime]) -> Way | None:
    """The way to the first Ready from its states, oldest first, and the marks of its log. None without any."""
    entered: dict[State, datetime] = {}
    ready_at = over_at = None
    for state, at in moves:
        if state is State.READY:
            ready_at = at
            break
        if state not in PHASES:
            over_at = at
            break
        entered.setdefault(state, at)
    if not entered:
        return None
    began = min(entered.values())
    end = ready_at or over_at
    starts = _starts(
        entered, {p: at for p, at in marks.items() if at >= began and (end is None or at <= end)}
    )
    order = [p for p in Phase if p in starts]
    spans, at = [], began
    for phase, following in zip(order, [*order[1:], None], strict=True):
        # A provider's clock may differ from ours: no phase ends before it began.
        at = max(at, starts[phase])
        until = end if following is None else max(at, starts[following])
        spans.append(Span(phase, at, until))
    return Way(began, tuple(spans), ready_at, over_at)


def _starts(entered: Mapping[State, datetime], marks: Mapping[str, datetime]) -> dict[Phase, datetime]:
    """When each phase began. The log's own word comes before what was seen from outside."""
    # A log without times tells when it was read, and a list when it was asked: the earlier is the nearer.
    seen = [marks[p] for p in _IN_CONTAINER if p in marks] + [
        entered[s] for s in (State.LOADING,) if s in entered
    ]
    runs = min(seen, default=None)
    found = {
        Phase.QUEUE: min(entered.values()),
        Phase.PULL: entered.get(State.PULLING),
        Phase.DOWNLOAD: runs if "downloading" in marks else None,
        Phase.LOAD: marks.get("loading") if "downloading" in marks else runs,
        Phase.WARM: marks.get("warming", entered.get(State.WARMING)),
    }
    return {phase: at for phase, at in found.items() if at is not None}


_IN_CONTAINER = ("checking", "downloading", "loading", "warming")


# -- what a log tells --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Told:
    """What the lines of a log tell of a launch."""

    marks: dict[str, datetime] = field(default_factory=dict)
    starts: int = 0
    progress: str = ""
    ended: str = ""
    bytes_there: int | None = None
    bytes_of: int | None = None


def told(lines: Iterable[LogLine], *, now: datetime) -> Told:
    """What they tell, read at `now`. A container that was started again begins anew."""
    marks: dict[str, datetime] = {}
    starts, last, ended, there, of = 0, None, "", None, None
    for line in lines:
        said = progress.parse(line.text)
        if said is None or line.source != "container":
            continue
        if said.phase == "exit":
            ended = said.words
            continue
        if said.phase == "checking":
            marks, starts, there, of = {}, starts + 1, None, None
        if said.phase in _IN_CONTAINER:
            # Without a time it began before it was read, by what it says of itself.
            at = line.at or now - timedelta(seconds=said.number("seconds") or 0)
            marks[said.phase] = min(marks.get(said.phase, at), at)
        if said.phase == "downloading":
            there, of = _whole(said, "bytes"), _whole(said, "of")
        last = said
    return Told(marks, starts, last.words[:300] if last else "", ended[:300], there, of)


def _whole(said: progress.Progress, name: str) -> int | None:
    number = said.number(name)
    return None if number is None else int(number)


# -- as usual? -----------------------------------------------------------------------------------------------

FEWEST = 3
"""Past launches from which a median is told."""


@dataclass(frozen=True, slots=True)
class Usual:
    """The medians of past launches, seconds, and of how many; `alike` says which."""

    seconds: Mapping[str, float]
    """Phase, or "total" -> median; a phase that too few went through is left out."""
    count: int
    alike: str


def usual(past: Sequence[Launch], *, model_key: str, where: str, model: str) -> Usual:
    """Of the launches of the same model where there are enough, else of all of `past`."""
    same = [launch for launch in past if launch.model_key == model_key]
    chosen, alike = (
        (same, f"{model} on {where}") if len(same) >= FEWEST else (list(past), f"any model on {where}")
    )
    seconds = {}
    for name in (*Phase, "total"):
        values = [v for launch in chosen if (v := getattr(launch, name)) is not None]
        if len(values) >= FEWEST:
            seconds[str(name)] = median(values)
    return Usual(seconds, len(chosen), alike)


class Pace(StrEnum):
    USUAL = "usual"
    SLOW = "slow"
    STALLED = "stalled"


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a phase does. `words` say why it is not as usual, `act` what to do about it."""

    pace: Pace
    words: str = ""
    act: str = ""


SLOW_FACTOR, SLOW_MORE = 1.5, 15.0
"""A phase that took longer than usual by both (the second in seconds) is slow."""
STALL_FACTOR, STALL_MORE = 3.0, 60.0
PATIENCE = {
    Phase.QUEUE: 300.0,
    Phase.PULL: 600.0,
    Phase.DOWNLOAD: 900.0,
    Phase.LOAD: 300.0,
    Phase.WARM: 180.0,
}
"""Seconds after which a phase counts as stalled where nothing is known of past launches."""
STANDSTILL = timedelta(seconds=60)
"""A download that brought nothing for so long stands still."""
_ACTS = {
    Phase.QUEUE: "The provider has not begun with it. To go on sooner, terminate it and launch an offer of another "
    "host or data centre.",
    Phase.PULL: "The host fetches the image slowly or cannot. Look at the system's log for the registry's answer; a host "
    "with more bandwidth, or one that has run this image before, is quicker.",
    Phase.DOWNLOAD: "The weights come slowly or not at all. Take an image that holds them, or a host with more "
    "bandwidth.",
    Phase.LOAD: "The engine reads the weights or compiles. Look at the log for errors; a slow disk needs another host, a "
    "GPU that is too small a shorter context.",
    Phase.WARM: "The engine runs and its first answer does not come. Look at the log for errors of the GPU.",
    Phase.FIRST_TOKEN: "The first answer came late: the GPU is shared or slow, or requests are waiting already.",
}  # fmt: skip


def judge(
    span: Span, typical: float | None, launch: Launch | None, *, now: datetime, left: timedelta | None = None
) -> Verdict:
    """`typical` is the usual length, seconds; `left` how long until the panel gives the attempt up by itself."""
    seconds = span.took(now).total_seconds()
    pace = _pace(span, seconds, typical)
    words = _against(seconds, typical) if pace is not Pace.USUAL else ""
    if span.ended is None and launch is not None:
        if still := _standstill(span, launch, now=now):
            pace, words = Pace.STALLED, still
        if launch.starts > 1:
            pace, words = (
                Pace.STALLED,
                f"Its container has started {launch.starts} times. {launch.ended}".strip(),
            )
    if pace is Pace.USUAL:
        return Verdict(pace)
    act = _ACTS[span.phase] if span.ended is None or span.phase is Phase.FIRST_TOKEN else ""
    if act and left is not None:
        act += f" If nothing changes, it is given up in {duration(max(left, timedelta()))}, and the next offer is tried."
    return Verdict(pace, words, act)


def _pace(span: Span, seconds: float, typical: float | None) -> Pace:
    if typical is None:
        waits = span.ended is None and seconds > PATIENCE.get(span.phase, 60.0)
        return Pace.STALLED if waits else Pace.USUAL
    if span.ended is None and seconds > max(STALL_FACTOR * typical, typical + STALL_MORE):
        return Pace.STALLED
    more = SLOW_MORE if span.phase is not Phase.FIRST_TOKEN else 1.0
    return Pace.SLOW if seconds > max(SLOW_FACTOR * typical, typical + more) else Pace.USUAL


def _against(seconds: float, typical: float | None) -> str:
    if typical is None:
        return "Longer than any launch should take."
    if typical < 1:
        return f"Usually {duration(timedelta(seconds=typical))}."
    return f"{seconds / typical:.1f} times as long as usual."


def _standstill(span: Span, launch: Launch, *, now: datetime) -> str:
    if span.phase is not Phase.DOWNLOAD or launch.bytes_grown_at is None:
        return ""
    silent = now - launch.bytes_grown_at
    return f"Nothing has come for {duration(silent)}." if silent > STANDSTILL else ""
