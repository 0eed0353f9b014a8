"""What is wrong now, read from rows: each cause once, whatever it touches. Nothing is written here.

A cause that lies with an account (its key, its provider, several machines at once) swallows what only follows
from it: forty deployments that an outage takes down are one trouble that touches forty.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from django.db.models import Count, Exists, OuterRef, Q

from billing import budgets
from deployments import calls
from deployments.lifecycle import MAY_EXIST, Desired, State
from deployments.models import (
    BUDGET_WORD,
    Breaker,
    Cause,
    Deployment,
    Event,
    Incident,
    IncidentEntry,
    Instance,
    ProviderAccount,
    ResidencyEvidence,
)
from deployments.models.instance import SECRETS
from deployments.monitoring import guesses, uptime
from deployments.monitoring.uptime import ANSWERING, Was
from deployments.services import ADOPTABLE
from panel.notices.models import Notice
from panel.notices.notify import open_notices

Kind, Severity = Incident.Kind, Notice.Severity

GROUP = 3
"""From so many deployments of one account on, when they are more than half of it, they are down for one reason."""
LINGER = timedelta(minutes=30)
"""What an outage took down counts to it for this long after its end, until it is up again."""
NEVER_UP = timedelta(minutes=1)
"""An attempt that failed and has had no successor for this long: it could not be started."""
FRESH = timedelta(minutes=10)
"""A failed call or a violation that is older says nothing of now."""
LIMITS = {
    State.REQUESTED: timedelta(minutes=5),
    State.UNKNOWN: timedelta(minutes=5),
    State.PROVISIONING: timedelta(minutes=8),
    State.PULLING: timedelta(minutes=15),
    State.LOADING: timedelta(minutes=12),
    State.WARMING: timedelta(minutes=6),
}
"""How long a phase of the way up may take before somebody should look."""
END_LIMIT = timedelta(minutes=5)
"""How long the provider may take to stop or end a machine."""
JUST_NOW, BLINK = timedelta(minutes=1), timedelta(seconds=2)
"""A downtime that ended so lately and lasted for so long is told though no look met it."""
ROWS = 1000
"""Deployments that one look takes in at the most."""


class Touched(NamedTuple):
    deployment: UUID
    instance: UUID | None


@dataclass(frozen=True, slots=True)
class Trouble:
    """One cause and what it touches, as it stands now."""

    cause: str
    kind: Incident.Kind
    severity: Notice.Severity
    title: str
    guess: str
    since: datetime
    deployment: UUID | None = None
    account: UUID | None = None
    touches: tuple[Touched, ...] = ()
    lingers: bool = False
    """Its own signs are gone, and it lasts for what it touched and has not come back yet."""


@dataclass(frozen=True, slots=True)
class Standing:
    """A standing incident, as far as it decides what counts to it."""

    kind: str
    title: str
    severity: str
    guess: str
    opened_at: datetime
    clear_since: datetime | None
    touched: frozenset[UUID]


def find(standing: Mapping[str, Standing], *, now: datetime) -> list[Trouble]:
    """Every trouble, `standing` being the incidents that stand (by cause): what has begun ends only with its end."""
    missing = _not_answering()
    residency = _residency(missing, standing, now=now)
    roots = _account_troubles(now=now)
    found = [*_deployment_troubles(missing, standing, skip={t.deployment for t in residency}, now=now)]
    _group(found, roots, now=now)
    _linger(missing, standing, roots, now=now)
    left = _swallow([*found, *_ending(now=now)], roots, standing)
    missed = _missed(standing, now=now)
    outages = [_weighed(root, standing) for root in roots.values()]
    return [*outages, *residency, *left, *missed, *_orphans(), *_budget(standing, now=now)]


# -- deployments --------------------------------------------------------------------------------------

LATER = Instance.objects.filter(deployment=OuterRef("deployment"), attempt__gt=OuterRef("attempt"))
"""For `~Exists`: the attempt is the newest of its deployment."""


def _not_answering() -> list[Instance]:
    """The newest attempt of every deployment that is wanted and does not answer."""
    rows = (
        Instance.objects.filter(~Exists(LATER), deployment__desired=Desired.RUNNING)
        .exclude(state__in=[s.value for s in ANSWERING])
        .select_related("deployment", "account")
        .without_secrets()
        .defer("account__credentials")
        .order_by("deployment_id")
    )
    return list(rows[:ROWS])


def _deployment_troubles(
    rows: Sequence[Instance], standing: Mapping[str, Standing], *, skip: Collection[UUID | None], now: datetime
) -> Iterator[Trouble]:  # fmt: skip
    outages = {pk for cause, s in standing.items() if cause.startswith(_OF_ACCOUNTS) for pk in s.touched}
    # What an outage has taken down is known to be down until it answers: its Events are not read each time.
    down = {i.deployment_id: i.state_since for i in rows if i.deployment_id in outages}
    new = {i.deployment_id for i in rows if cause_of(i.deployment_id) not in standing} - outages
    down |= dict(_down_since(new, now=now))
    waits = _not_relaunched() if rows else {}
    for i in rows:
        if i.deployment_id in skip:
            continue
        known = standing.get(cause_of(i.deployment_id))
        trouble = _trouble(i, down.get(i.deployment_id), now=now)
        if known is not None:
            # However it began, it lasts until the deployment answers.
            trouble = trouble or _still(i, known)
            trouble = replace(trouble, kind=Kind(known.kind), title=known.title)
        if trouble is not None:
            yield replace(trouble, guess=guesses.with_wait(trouble.guess, waits.get(i.deployment_id, "")))


def _not_relaunched() -> dict[UUID, str]:
    """Why the next attempt of a deployment has to wait, as the reconciler told it."""
    told = open_notices().filter(key__startswith="relaunch:", subject__isnull=False)
    return {subject: detail for subject, detail in told.values_list("subject", "detail") if subject}


_OF_ACCOUNTS = (f"{Cause.PROVIDER}:", f"{Cause.KEY}:")


def _missed(standing: Mapping[str, Standing], *, now: datetime) -> Iterator[Trouble]:
    """What went down and came back between two looks."""
    known = {pk for s in standing.values() for pk in s.touched}
    back = Event.objects.filter(at__range=(now - JUST_NOW, now), kind="state", to_state=State.READY).exclude(
        from_state=""
    )
    fresh = set(back.values_list("deployment_id", flat=True)) - known
    for deployment, facts in uptime.facts_of(fresh, since=now, until=now) if fresh else ():
        spans, _ = uptime.walk(facts, until=now)
        downs = [s for s in spans[:-1] if s.was is Was.DOWN and s.end > now - JUST_NOW and s.took > BLINK]
        if not downs or _is_told(deployment, downs[-1].start):
            continue
        i = _row(downs[-1].instance)
        if i is not None:
            yield _of(
                i,
                Kind.DOWN,
                Severity.CRITICAL,
                f"{i.deployment.name} was down",
                guesses.of_down(i),
                downs[-1].start,
            )


def _is_told(deployment: UUID, at: datetime) -> bool:
    told = IncidentEntry.objects.filter(deployment=deployment, incident__over_at__gte=at)
    return told.exists()


def _row(pk: UUID | None) -> Instance | None:
    rows = Instance.objects.select_related("deployment").without_secrets()
    return rows.filter(pk=pk).first() if pk else None


def cause_of(deployment: UUID) -> str:
    return Cause.DEPLOYMENT.of(deployment)


def _down_since(deployments: Collection[UUID], *, now: datetime) -> Iterator[tuple[UUID, datetime]]:
    """Those of them that are down now, not on their first way up nor between two machines on purpose."""
    for deployment, facts in uptime.facts_of(deployments, since=now, until=now + timedelta(seconds=1)):
        spans, _ = uptime.walk(facts, until=now + timedelta(seconds=1))
        if spans and spans[-1].was is Was.DOWN:
            yield deployment, spans[-1].start


def _trouble(i: Instance, down_since: datetime | None, *, now: datetime) -> Trouble | None:
    state, name = i.status, i.deployment.name
    if state is State.OUTBID:
        low = f"; the lowest bid that wins now is ${i.min_bid.normalize():f}/h" if i.min_bid else ""
        guess = (
            f"A higher bid holds its GPU{low}. Compute is not billed meanwhile, its disk is. By its policy: "
            f"{i.deployment.get_bid_policy_display()}."
        )
        return _of(
            i, Kind.OUTBID, Severity.WARNING, f"{name} was outbid", guess, i.outbid_at or i.state_since
        )
    if down_since is not None:
        return _of(i, Kind.DOWN, Severity.CRITICAL, f"{name} is down", guesses.of_down(i), down_since)
    waited = now - i.state_since
    if state is State.FAILED and waited > NEVER_UP:
        return _of(
            i, Kind.DOWN, Severity.CRITICAL, f"{name} could not be started", guesses.of_down(i), i.state_since
        )
    if state in LIMITS and waited > LIMITS[state]:
        title = f"{name} is stuck: {state.word.lower()}"
        return _of(i, Kind.STUCK, Severity.WARNING, title, guesses.of_stuck(i), i.state_since)
    return None


def _of(
    i: Instance, kind: Incident.Kind, severity: Notice.Severity, title: str, guess: str, since: datetime
) -> Trouble:
    return Trouble(
        cause_of(i.deployment_id), kind, severity, title, guess, since, i.deployment_id, i.account_id,
        (Touched(i.deployment_id, i.pk),),
    )  # fmt: skip


def _still(i: Instance, known: Standing) -> Trouble:
    # What a machine on its way back says is no cause.
    guess = guesses.of_down(i) if i.status is State.DEGRADED else known.guess
    return _of(i, Kind(known.kind), Severity(known.severity), known.title, guess, known.opened_at)


def _residency(
    missing: Sequence[Instance], standing: Mapping[str, Standing], *, now: datetime
) -> list[Trouble]:
    """Machines that stand, or stood a moment ago, where they may not."""
    better = ResidencyEvidence.objects.filter(
        instance=OuterRef("instance"), pk__gt=OuterRef("pk"), allowed=True
    )
    may_exist = Q(instance__state__in=[s.value for s in MAY_EXIST])
    rows = (
        ResidencyEvidence.objects.filter(Q(at__gt=now - FRESH) | may_exist, allowed=False)
        .exclude(Exists(better))
        .select_related("instance__deployment", "instance__account")
        .defer(*(f"instance__{name}" for name in SECRETS), "instance__account__credentials")
        .order_by("-at", "-pk")
    )
    found: dict[UUID, Trouble] = {}
    for e in rows[:ROWS]:
        i = e.instance
        title = f"{i.deployment.name} stood where it may not"
        trouble = replace(
            _of(i, Kind.RESIDENCY, Severity.CRITICAL, title, f"{e.reason} Read from {e.source}.", e.at),
            cause=Cause.RESIDENCY.of(i.deployment_id),
        )
        found.setdefault(i.deployment_id, trouble)
    for i in missing:
        known = standing.get(Cause.RESIDENCY.of(i.deployment_id))
        if known is not None:
            found.setdefault(
                i.deployment_id, replace(_still(i, known), cause=Cause.RESIDENCY.of(i.deployment_id))
            )
    return list(found.values())


def _ending(*, now: datetime) -> Iterator[Trouble]:
    """Machines that their provider does not stop or end: they go on billing."""
    # One that is locked is ended by nobody's patience.
    late = Q(state_since__lt=now - END_LIMIT) | Q(locked=True, end_tries__gt=0)
    rows = (
        Instance.objects.filter(late, state__in=[State.TERMINATING, State.STOPPING])
        .select_related("deployment", "account")
        .without_secrets()
        .defer("account__credentials")
        .order_by("deployment_id")
    )
    for i in rows[:ROWS]:
        verb = "ended" if i.status is State.TERMINATING else "stopped"
        why = (
            "It is locked: unlock it in the provider's console."
            if i.locked
            else "The provider does not carry it out."
        )
        yield replace(
            _of(i, Kind.STUCK, Severity.CRITICAL, f"A machine of {i.deployment.name} cannot be {verb}",
                f"{why} It goes on billing until then. It was asked for {i.end_tries or 1} times.", i.state_since),
            cause=Cause.ENDING.of(i.pk),
        )  # fmt: skip


# -- accounts -----------------------------------------------------------------------------------------


def _account_troubles(*, now: datetime) -> dict[UUID, Trouble]:
    """The one trouble of each account that has any: its key before its provider."""
    accounts = {a.pk: a for a in ProviderAccount.objects.defer("credentials")}
    told = {n.key: n for n in open_notices().filter(key__startswith="account-")}
    told |= {n.key: n for n in open_notices().filter(key__startswith="mass-disappearance:")}
    failing = defaultdict(list)
    watched = [Breaker.Call.LIST, Breaker.Call.CREATE]
    for row in Breaker.objects.filter(
        call__in=watched, failures__gte=calls.FAILURES, failed_at__gt=now - FRESH
    ).order_by("-call"):
        failing[row.account_id].append(row)
    found: dict[UUID, Trouble] = {}
    for account in accounts.values():
        trouble = _key_trouble(account, told) or _provider_trouble(
            account, told, failing[account.pk], now=now
        )
        if trouble is not None:
            found[account.pk] = trouble
    return found


def _key_trouble(account: ProviderAccount, told: Mapping[str, Notice]) -> Trouble | None:
    for prefix, title in (
        ("account-key", f"{account.name} refused its key"),
        ("account-stranger", f"{account.name}’s key belongs to somebody else"),
    ):
        notice = told.get(f"{prefix}:{account.pk}")
        if notice is not None:
            guess = (
                "The key was revoked, has run out, or is another team's. Nothing is rented there, and what runs goes on "
                "accruing unverified. Give the account a new one."
            )
            return Trouble(
                Cause.KEY.of(account.pk), Kind.KEY, Severity.CRITICAL, title, guess, notice.raised_at,
                account=account.pk,
            )  # fmt: skip
    return None


def _provider_trouble(
    account: ProviderAccount, told: Mapping[str, Notice], failing: Sequence[Breaker], *, now: datetime
) -> Trouble | None:
    notice = told.get(f"mass-disappearance:{account.pk}")
    if notice is not None:
        return _outage(account, f"{account.name} does not list its machines", notice.title, notice.raised_at)
    if failing:
        row = failing[0]
        what = "list its machines" if row.call == Breaker.Call.LIST else "rent"
        guess = f"{account.name} could not be asked to {what} {row.failures} times in a row: {row.error}"
        return _outage(account, f"{account.name} does not answer", guess, row.failed_at or now)
    return None


def _outage(account: ProviderAccount, title: str, guess: str, since: datetime) -> Trouble:
    return Trouble(
        Cause.PROVIDER.of(account.pk),
        Kind.PROVIDER,
        Severity.CRITICAL,
        title,
        guess,
        since,
        account=account.pk,
    )


def _group(found: list[Trouble], roots: dict[UUID, Trouble], *, now: datetime) -> None:
    """Several deployments of one account that are down at once are down for one reason."""
    down: dict[UUID, list[Trouble]] = defaultdict(list)
    for trouble in found:
        if trouble.account is not None and trouble.account not in roots and trouble.kind == Kind.DOWN:
            down[trouble.account].append(trouble)
    many = {pk: some for pk, some in down.items() if len(some) >= GROUP}
    if not many:
        return
    wanted = dict(
        Instance.objects.filter(~Exists(LATER), deployment__desired=Desired.RUNNING, account__in=many)
        .order_by()
        .values_list("account")
        .annotate(n=Count("pk"))
    )
    for account in ProviderAccount.objects.filter(pk__in=many).defer("credentials"):
        some = many[account.pk]
        if len(some) * 2 > wanted.get(account.pk, 0):
            guess = f"They went down together, and all stand at {account.name}: an outage there, or of the way to it."
            since = min(t.since for t in some)
            roots[account.pk] = _outage(account, f"Machines of {account.name} do not answer", guess, since)


def _linger(
    missing: Sequence[Instance], standing: Mapping[str, Standing], roots: dict[UUID, Trouble], *, now: datetime
) -> None:  # fmt: skip
    """An outage is not over for what it took down and has not come back yet."""
    down = {i.deployment_id for i in missing}
    for cause, known in standing.items():
        kind, _, account = cause.partition(":")
        if kind != Cause.PROVIDER or UUID(account) in roots or not known.touched & down:
            continue
        if known.clear_since is None or now - known.clear_since < LINGER:
            roots[UUID(account)] = Trouble(
                cause, Kind.PROVIDER, Severity(known.severity), known.title, known.guess, known.opened_at,
                account=UUID(account), lingers=True,
            )  # fmt: skip


def _swallow(
    found: Iterable[Trouble], roots: dict[UUID, Trouble], standing: Mapping[str, Standing]
) -> list[Trouble]:
    """What only follows from an account's trouble becomes what that touches; the rest is left.

    Also what it took down and what is on its way back elsewhere by now.
    """
    told = {account: standing[root.cause] for account, root in roots.items() if root.cause in standing}
    home = {pk: account for account, known in told.items() for pk in known.touched}
    left: list[Trouble] = []
    mine: dict[UUID, dict[Touched, None]] = defaultdict(dict)
    for trouble in found:
        account = home.get(trouble.deployment, trouble.account) if trouble.deployment else None
        if account is None or account not in roots or trouble.kind == Kind.OUTBID:
            left.append(trouble)
        else:
            mine[account] |= dict.fromkeys(trouble.touches)
    for account, touches in mine.items():
        roots[account] = replace(roots[account], touches=tuple(touches))
    return left


def _weighed(root: Trouble, standing: Mapping[str, Standing]) -> Trouble:
    """An outage that has taken nothing down wakes nobody up."""
    known = standing.get(root.cause)
    harmless = root.kind == Kind.PROVIDER and not root.touches and not (known and known.touched)
    return replace(root, severity=Severity.WARNING) if harmless else root


# -- what nobody asked for, and money -----------------------------------------------------------------


def _orphans() -> Iterator[Trouble]:
    """Machines under our label that nobody asked for, and those that stand twice: one trouble for each account."""
    found = Q(deployment__launch_key__startswith=ADOPTABLE, deployment__desired=Desired.TERMINATED)
    rows = (
        Instance.objects.may_exist()
        .filter(found | ~Q(duplicates=[]))
        .select_related("account")
        .without_secrets()
        .defer("account__credentials")
        .order_by("deployment_id")
    )
    by_account: dict[UUID, list[Instance]] = defaultdict(list)
    for i in rows[:ROWS]:
        by_account[i.account_id].append(i)
    for some in by_account.values():
        account, count = some[0].account, len(some)
        title = f"{count} machine{'s' if count > 1 else ''} at {account.name} that nobody asked for"
        guess = (
            f"Under our label and unknown here: {', '.join(i.label for i in some[:5])}. A restored database, another "
            "panel with this one's name, or a create whose answer was lost. Adopt them on the radar, or they are ended."
        )
        yield Trouble(
            Cause.ORPHAN.of(account.pk), Kind.ORPHAN, Severity.CRITICAL, title, guess, min(i.created_at for i in some),
            account=account.pk, touches=tuple(Touched(i.deployment_id, i.pk) for i in some),
        )  # fmt: skip


def _budget(standing: Mapping[str, Standing], *, now: datetime) -> Iterator[Trouble]:
    """The money is gone or all but gone, or what it stopped still stands still."""
    verdict = budgets.strictest(now=now)
    warned = verdict.warned
    stopped = Deployment.objects.filter(desired=Desired.STOPPED, desired_reason__contains=BUDGET_WORD)
    touched = tuple(Touched(pk, None) for pk in stopped.order_by("pk").values_list("pk", flat=True)[:ROWS])
    if not (verdict.stop or warned or touched):
        return
    known = standing.get(Cause.BUDGET)
    title = "The budget stopped what ran" if touched and not warned else "The budget is spent"
    guess = verdict.reason if verdict.stop or warned or known is None else known.guess
    severity = Severity.WARNING if warned else Severity.CRITICAL
    yield Trouble(Cause.BUDGET, Kind.BUDGET, severity, title, guess, now, touches=touched)
