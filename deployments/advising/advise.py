"""What is advised for a deployment, each with its arithmetic. Pure: facts in (`Case`, `Market`), advice out.

Nothing is advised on too little data, nothing that saves less than a dollar a month, and nothing that residency or
purpose forbids: the market has none of that.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from math import ceil

from deployments import fit, rank
from deployments.advising import pattern, sums
from deployments.advising.case import Advice, Boot, Case, Choice, Kind, Lack, Sum, Use
from deployments.advising.market import BID, ON, ZERO, Good, Market, Want, good_of, group_of
from deployments.advising.words import amount, hours, money, share, span, weekly
from deployments.tiers import described

LEAST = Decimal(1)
"""USD a month: less is not worth anybody's time."""
HEADROOM = 2
"""So many times what its KV cache holds at its fullest must fit on another machine."""
CROWDED = 0.05
"""The part of the hours in which requests wait for memory, above which a larger GPU is advised."""
BILLED_DAYS = 14


def advise(case: Case, market: Market, *, now: datetime) -> list[Advice]:
    """Everything that is worth doing, what saves most first."""
    if case.quote.own_machine:
        return []
    found = [a for make in _MAKERS for a in make(case, market, now)]
    return sorted(found, key=lambda a: (-a.saves, a.kind))


def lack(case: Case) -> Lack | None:
    """What is missing before its load can be judged; None: nothing is."""
    if case.quote.own_machine or case.stopped_for is not None:
        return None
    if case.scales_to_zero:
        has = case.billed.days if case.billed else 0
        return Lack(case, has, BILLED_DAYS) if has < BILLED_DAYS else None
    # What rests by its schedule is not measured meanwhile: there a day counts with any hour of it.
    has = 0 if case.use is None else case.use.dates if case.scheduled else case.use.days
    return Lack(case, has, pattern.DAYS_NEEDED) if has < pattern.DAYS_NEEDED else None


# -- nobody asks ---------------------------------------------------------------------------------------


def _rests(case: Case, market: Market, now: datetime) -> Iterator[Advice]:
    """A schedule, or a stop where nobody asked for anything at all."""
    use = case.use
    if use is None or case.stopped_for is not None or lack(case) or case.quote.serverless:
        return
    seen = pattern.wall(use.first, use.hours, use.seen, use.busy, case.zone)
    if pattern.is_unused(seen):
        yield from _unused(case, use)
    elif not case.scheduled and not case.quote.interruptible:
        # A start may take longer than an hour: it has to be done before the first request.
        found = pattern.find(seen, lead=max(1, ceil(case.boot.seconds / 3600)))
        if found is not None:
            yield from _schedule(case, use, found)


def _unused(case: Case, use: Use) -> Iterator[Advice]:
    saves = sums.month(case.hour) - sums.month(case.quote.held_usd_per_hour)
    if case.scheduled or case.ends or saves < LEAST:
        return
    yield Advice(
        Kind.UNUSED, case, f"Nobody used it for {use.days} days: stop it", saves,
        (
            Sum("Runs", f"730 h × {money(case.hour)}", amount(sums.month(case.hour))),
            Sum("Stopped", f"730 h × {money(case.quote.held_usd_per_hour)} for its disk", amount(sums.month(case.quote.held_usd_per_hour))),
            Sum("Saves", "a month of 730 hours", amount(saves)),
        ),
        (_measured(use),),
        (_QUIET, f"Started again, it is ready after {span(case.boot.seconds)}: {case.boot.source}."),
    )  # fmt: skip


def _schedule(case: Case, use: Use, found: pattern.Found) -> Iterator[Advice]:
    held = case.quote.held_usd_per_hour
    saves = sums.rested(case.hour, held, rest=found.rest)
    if case.ends or saves < LEAST:
        return
    of_month = sums.MONTH * found.rest / pattern.WEEK
    some = f"somebody asked on {found.exceptions}" if found.exceptions else "nobody asked for anything"
    yield Advice(
        Kind.SCHEDULE, case, f"Run it {weekly(found.schedule)} only", saves,
        (
            Sum("Now", f"730 h × {money(case.hour)}", amount(sums.month(case.hour))),
            Sum("At rest", f"{found.rest} of 168 h a week = {hours(of_month)} of 730 h", ""),
            Sum("Saved an hour", f"{money(case.hour)} − {money(held)} for the disk that is kept", money(case.hour - held)),
            Sum("Saves", f"{hours(of_month)} × {money(case.hour - held)}", amount(saves)),
        ),
        (
            _measured(use),
            f"On {found.days} whole days {some} in these hours: with 95 % confidence it is wanted then on at most one day in five.",
        ),
        (
            _QUIET,
            f"A start takes {span(case.boot.seconds)} ({case.boot.source}) and is paid.",
            f"It runs from {found.lead} h before the first request that was seen until an hour after the last.",
            f"The coming weeks are like these. {described(case.provider, case.quote.tier).stopped}".rstrip(),
        ),
        schedule=found.schedule,
    )  # fmt: skip


_QUIET = "An hour with fewer than two requests beyond the panel's own checks counts as idle."


# -- flex or always on ---------------------------------------------------------------------------------


def _always_on(case: Case, market: Market, now: datetime) -> Iterator[Advice]:
    """A worker that scales to zero is so busy that a machine that never sleeps is cheaper."""
    billed, worker = case.billed, case.quote.usd_per_hour
    if not case.scales_to_zero or billed is None or lack(case) or case.ends or not worker:
        return
    a_day = billed.usd / billed.days / worker
    # More than one worker at once: one machine in its stead would be too few.
    if not 0 < a_day <= 24:
        return
    before = sums.month(worker, hours_a_day=a_day)
    choice = market.cheapest(case, Want(fit.CONCURRENCY, before / sums.MONTH, ON, _asleep_or_not(case)))
    if choice is None:
        return
    even, after = sums.break_even(choice.hour, worker), sums.month(choice.hour)
    start = sums.boot(choice.hour, choice.boot.seconds)
    saves = sums.moved(before, after, boot_usd=start)
    if saves < LEAST:
        return
    yield Advice(
        Kind.ALWAYS_ON, case, f"Always on is cheaper: {choice.tier} at {money(choice.hour)}", saves,
        (
            Sum("Now", f"{hours(a_day)} a day of a worker × {money(worker)} × 730 / 24", amount(before)),
            Sum("Always on", f"730 h × {money(choice.hour)} ({choice.tier}, {choice.what})", amount(after)),
            Sum("Break-even", f"24 h × {money(choice.hour)} / {money(worker)}", f"{hours(even)} a day"),
            _start_sum(choice, start),
            Sum("Saves", "in the first month", amount(saves)),
        ),
        (
            f"The ledger counted {amount(billed.usd)} for its workers in the last {billed.days} whole days.",
            _offered(choice, now),
        ),
        (
            "Above the break-even the machine that never sleeps is cheaper, below it the worker is.",
            *_moving(choice),
        ),
        choice=choice, concurrency=fit.CONCURRENCY,
    )  # fmt: skip


def _flex(case: Case, market: Market, now: datetime) -> Iterator[Advice]:
    """The same sum the other way round: always on, and idle for so long that a worker that sleeps is cheaper."""
    use = case.use
    if use is None or group_of(case.quote) != ON or lack(case) or _is_still(case) or case.scheduled:
        return
    if not use.busy or use.waited:
        return
    before = sums.month(case.all_in)
    busy = use.busy_hours
    below = case.all_in * sums.DAY / busy
    need = _need(case, use)
    choice = market.cheapest(case, Want(need, below, ZERO, _asleep_or_not(case)))
    if choice is None:
        return
    after, even = sums.month(choice.hour, hours_a_day=busy), sums.break_even(case.all_in, choice.hour)
    start = sums.boot(choice.hour, choice.boot.seconds)
    saves = sums.moved(before, after, boot_usd=start)
    if saves < LEAST:
        return
    yield Advice(
        Kind.FLEX, case, f"A worker that sleeps is cheaper: {choice.tier} at {money(choice.hour)}", saves,
        (
            Sum("Now", f"730 h × {money(case.all_in)}", amount(before)),
            Sum("As a worker", f"{hours(busy)} a day × {money(choice.hour)} × 730 / 24 ({choice.what})", amount(after)),
            Sum("Break-even", f"24 h × {money(case.all_in)} / {money(choice.hour)}", f"{hours(even)} a day"),
            _start_sum(choice, start),
            Sum("Saves", "in the first month", amount(saves)),
        ),
        (_measured(use), _offered(choice, now)),
        (
            _QUIET,
            "Each hour with a request counts as a whole hour of one worker.",
            "The first request after a pause waits for a cold start.",
            *_moving(choice),
        ),
        choice=choice, concurrency=need,
    )  # fmt: skip


def _asleep_or_not(case: Case) -> Good:
    """Equal ground: a worker's trust is lower only because nobody knows yet where it will stand."""
    return good_of(case, smaller=True)._replace(trust=case.place.standing / 4)


# -- another machine -----------------------------------------------------------------------------------


def _move(case: Case, market: Market, now: datetime) -> Iterator[Advice]:
    """The same for less, and where its memory was never much in use, less memory for less."""
    if case.scales_to_zero or _is_still(case):
        return
    same = _best(case, market, fit.CONCURRENCY, smaller=False)
    if same and (advice := _moved(Kind.MOVE, case, same, now)):
        yield advice
    use = case.use
    if use is None or lack(case) or use.kv_p95 is None or use.waited:
        return
    less = _best(case, market, _need(case, use), smaller=True)
    if less and less.quote.vram_mb < case.quote.vram_mb and (advice := _moved(Kind.SMALLER, case, less, now)):
        yield advice


def _best(case: Case, market: Market, concurrency: int, *, smaller: bool) -> Choice | None:
    good = good_of(case, smaller=smaller)
    groups = (ON, BID) if case.quote.interruptible else (ON,)
    found = [market.cheapest(case, Want(concurrency, case.all_in, g, good)) for g in groups]
    cheapest = min((c for c in found if c), key=lambda c: c.hour, default=None)
    if cheapest is None:
        return None
    # The policy's own order has the last word.
    ours = rank.order(case.place, case.policy, float(case.all_in))
    theirs = rank.order(rank.place(cheapest.quote), case.policy, float(cheapest.hour))
    return cheapest if theirs <= ours else None


def _moved(kind: Kind, case: Case, choice: Choice, now: datetime) -> Advice | None:
    (before, how_before), (after, how_after) = _months(case, choice)
    start = sums.boot(choice.hour, choice.boot.seconds)
    saves = sums.moved(before, after, boot_usd=start)
    if saves < LEAST:
        return None
    use, smaller = case.use, kind is Kind.SMALLER
    need = _need(case, use) if smaller else fit.CONCURRENCY
    title = f"{'A smaller GPU is enough' if smaller else 'The same costs less'}: {choice.what} at {money(choice.hour)}"
    lines = [
        Sum("Now", f"{how_before} ({case.quote.gpu_name})", amount(before)),
        Sum("There", f"{how_after} ({choice.tier}, {choice.account})", amount(after)),
        _start_sum(choice, start),
        Sum("Saves", "in the first month", amount(saves)),
    ]
    basis = [_offered(choice, now)]
    if smaller and use is not None:
        lines.insert(2, _memory_sum(case, use, need))
        basis.insert(0, _kv_measured(use))
    if not smaller:
        basis.append("Its rank, its stated reliability and its GPU memory are no lower than what stands.")
    else:
        basis.append("Its rank and its stated reliability are no lower than what stands.")
    other = choice.quote.gpu_name != case.quote.gpu_name
    speed = (f"{choice.quote.gpu_name} is another GPU: compare its speed before you end the old one.",)
    later = (_LATER,) if need != fit.CONCURRENCY else ()
    return Advice(
        kind, case, title, saves, tuple(lines), tuple(basis), (*(speed if other else ()), *later, *_moving(choice)),
        choice=choice, concurrency=need,
    )  # fmt: skip


def _months(case: Case, choice: Choice) -> tuple[tuple[Decimal, str], tuple[Decimal, str]]:
    """What a month costs here and there, and how it is reckoned: by the schedule's hours, where it has one."""
    return (
        _month(case.all_in, case.quote.held_usd_per_hour, case.week_hours),
        _month(choice.hour, choice.quote.held_usd_per_hour, case.week_hours),
    )


def _month(hour: Decimal, held: Decimal, week_hours: Decimal) -> tuple[Decimal, str]:
    runs = sums.MONTH * week_hours / pattern.WEEK
    rests = sums.MONTH - runs
    how = f"{hours(runs)} × {money(hour)}" if rests else f"730 h × {money(hour)}"
    return hour * runs + held * rests, f"{how} + {hours(rests)} stopped × {money(held)}" if rests else how


def _larger(case: Case, market: Market, now: datetime) -> Iterator[Advice]:
    """Requests wait for memory: what has twice as much room for them costs more, and serves them."""
    use = case.use
    if use is None or case.quote.serverless or lack(case) or _is_still(case) or use.crowded < CROWDED:
        return
    room = _cache_mb(case)
    need = max(fit.CONCURRENCY + 1, ceil(HEADROOM * room / max(1, _each_mb(case))))
    good = good_of(case, smaller=True)
    groups = (ON, BID) if case.quote.interruptible else (ON,)
    found = [market.cheapest(case, Want(need, Decimal("Infinity"), g, good)) for g in groups]
    choice = min((c for c in found if c), key=lambda c: c.hour, default=None)
    if choice is None or choice.quote.vram_mb <= case.quote.vram_mb:
        return
    (before, how_before), (after, how_after) = _months(case, choice)
    saves, costs = max(Decimal(0), before - after), max(Decimal(0), after - before)
    yield Advice(
        Kind.LARGER, case, f"More memory serves what waits: {choice.what} at {money(choice.hour)}", saves,
        (
            Sum("Now", f"{how_before} ({case.quote.gpu_name})", amount(before)),
            Sum("There", f"{how_after} ({choice.tier}, {choice.account})", amount(after)),
            Sum("Memory", f"{HEADROOM} × {room / 1024:.1f} GB of cache = {need} requests of {case.context} tokens", fit.fit(case.model, choice.quote, context=case.context, concurrency=need).sum),
            Sum("Costs more" if costs else "Saves", "a month of 730 hours", amount(costs or saves)),
        ),
        (
            f"In {share(use.crowded)} of its hours the KV cache was 90 % full and at least one request waited, on the average.",
            _measured(use), _offered(choice, now),
        ),
        ("A shorter context or fewer requests at once would help as well, and cost nothing.", _LATER, *_moving(choice)),
        costs=costs, choice=choice, concurrency=need,
    )  # fmt: skip


def _need(case: Case, use: Use | None) -> int:
    """How many requests of full context must fit: the headroom over what its cache held, at most what it can hold."""
    if use is None or use.kv_p95 is None:
        return 1
    room, each = _cache_mb(case), max(1, _each_mb(case))
    return max(1, min(ceil(HEADROOM * use.kv_p95 * room / each), int(room / each)))


def _cache_mb(case: Case) -> float:
    """What the KV cache of the machine that stands can hold, MB."""
    weights, _, overhead = fit.memory(case.model, context=case.context, concurrency=1)
    total = case.quote.vram_mb if case.model.needs_gpu else case.quote.memory_mb
    return max(0.0, total * (fit.USABLE if case.model.needs_gpu else 1) - weights - overhead)


def _each_mb(case: Case) -> int:
    """What one request of full context takes, MB."""
    return fit.memory(case.model, context=case.context, concurrency=1)[1]


def _memory_sum(case: Case, use: Use, need: int) -> Sum:
    kv, room = use.kv_p95 or 0.0, _cache_mb(case)
    weights, cache, overhead = fit.memory(case.model, context=case.context, concurrency=need)
    how = f"{share(kv)} of {room / 1024:.1f} GB × {HEADROOM} = {need} request{'s' if need > 1 else ''} of {case.context} tokens"
    return Sum("Memory", how, fit.in_words(weights, cache, overhead))


# -- what is kept --------------------------------------------------------------------------------------


def _disk(case: Case, market: Market, now: datetime) -> Iterator[Advice]:
    """A stopped machine whose disk has cost more than a fresh start would."""
    held = case.quote.held_usd_per_hour
    if case.stopped_for is None or not held or case.scheduled or case.ends:
        return
    start = sums.boot(case.quote.usd_per_hour, case.boot.seconds)
    even, stood = sums.kept(held, start), Decimal(str(case.stopped_for.total_seconds())) / 3600
    saves = sums.moved(sums.month(held), Decimal(0), boot_usd=start)
    if stood <= even or saves < LEAST:
        return
    yield Advice(
        Kind.DISK, case, f"Stopped for {span(case.stopped_for.total_seconds())}: a fresh start costs less than its disk", saves,
        (
            Sum("Its disk", f"730 h × {money(held)}", amount(sums.month(held))),
            Sum("A fresh start", f"{span(case.boot.seconds)} × {money(case.quote.usd_per_hour)}", amount(start)),
            Sum("Break-even", f"{amount(start)} / {money(held)}", f"{hours(even)} stopped"),
            Sum("Saves", "a month, one fresh start paid", amount(saves)),
        ),
        (f"It has been stopped for {span(case.stopped_for.total_seconds())}, and its disk bills meanwhile.",),
        (
            "It stays stopped for the month. What is on its disk is lost: the weights are fetched again.",
            f"How long a start takes: {case.boot.source}.",
        ),
    )  # fmt: skip


# -- words that several share ----------------------------------------------------------------------------


def _is_still(case: Case) -> bool:
    """It does not run, or not for long: nothing is moved."""
    return case.stopped_for is not None or case.ends


def _start_sum(choice: Choice, usd: Decimal) -> Sum:
    return Sum("One start", f"{span(choice.boot.seconds)} × {money(choice.hour)}", amount(usd))


def _moving(choice: Choice) -> tuple[str, ...]:
    source: Boot = choice.boot
    return (
        f"How long a start takes: {source.source}.",
        "You end the old machine once the new one is ready; its address changes.",
    )


def _measured(use: Use) -> str:
    return f"Measured: {use.seen.bit_count()} h of the last {use.hours // 24} days, {use.busy.bit_count()} of them busy."


def _kv_measured(use: Use) -> str:
    return (
        f"In 95 % of the hours of the last 14 days at most {share(use.kv_p95 or 0.0)} of its KV cache was in use, and no request waited "
        f"in {use.seen.bit_count()} measured hours."
    )


def _offered(choice: Choice, now: datetime) -> str:
    age = max(timedelta(), now - choice.confirmed_at)
    estimate = " Its price is an estimate." if choice.quote.estimate else ""
    return f"{choice.account} confirmed this offer {span(age.total_seconds())} ago.{estimate}"


_LATER = f"Should its machine be lost, the next one is chosen for {fit.CONCURRENCY} requests at once."
_MAKERS = (_rests, _always_on, _flex, _move, _larger, _disk)
