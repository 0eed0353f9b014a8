"""The whole suite, step by step: `./regia test [--fast | --vllm] [-- PYTEST ARGUMENTS]`.

Every step runs even when one before it failed, and a summary with each step's time ends it. What needs a
PostgreSQL, a Redis, an nginx or a Chromium that is not there is told as `not run`; with CI=true that is a failure.
After `--`, only the pytest steps run, with those arguments. `--vllm` runs what no other run does, and that alone.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import NoReturn

from tests import focus_venv, vllm_venv

ROOT = Path(__file__).resolve().parent.parent
BIN = ROOT / ".venv" / "bin"
POSTGRES = "postgres://postgres@127.0.0.1:5432/postgres"
# Not database 0: somebody's own Redis may be in use there.
REDIS = "redis://127.0.0.1:6379/15"
CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SQLITE_ALONE = [
    f"--ignore=tests/{name}"
    for name in (
        "registers/test_pages.py", "registers/test_admin.py", "privacy/test_pages.py", "deployments/test_charts.py",
        "security/test_browser_limits.py", "security/test_canary.py", "security/test_fuzz.py", "security/test_given_secrets.py",
        "security/test_guard.py", "security/test_serving.py", "security/test_supply.py", "image", "providers", "emulators", "ui", "playground", "test_security.py", "command/test_down.py",
        "command/test_install.py", "command/test_kill.py", "command/test_regia.py", "command/test_sandbox.py",
        "command/test_supervisor.py", "deployments/test_decide.py", "deployments/test_offers_rank.py",
        "deployments/test_compare.py", "deployments/test_reprs.py", "deployments/test_views.py",
        "deployments/test_views_launch.py", "deployments/test_views_launch_offers.py",
        "deployments/test_views_odd_input.py", "deployments/test_views_incidents.py", "deployments/test_silence.py", "deployments/test_logtext.py",
        "deployments/test_metrics.py", "deployments/test_metrics_endpoint.py", "alerts/test_mail_and_chat.py",
        "alerts/test_pages.py", "alerts/test_rules.py", "deployments/test_emulated_matrix.py",
        "deployments/test_emulated_faults.py", "deployments/test_emulated_life.py", "deployments/test_state_machine.py",
        "deployments/test_drills_emulated.py", "deployments/test_year.py", "billing/test_reconcile_pages.py",
        "deployments/test_advice.py", "deployments/test_advice_page.py", "deployments/test_advice_prices.py",
        "deployments/test_tags.py", "billing/test_tags.py", "billing/test_exports.py", "billing/test_statement.py",
        "billing/test_fx.py", "deployments/test_incidents_engine.py", "deployments/test_metering.py",
        "billing/test_money.py", "deployments/test_balancer.py", "deployments/test_canary.py", "deployments/test_catalog.py",
        "deployments/test_certificates.py", "deployments/test_lease.py", "deployments/test_logs.py",
        "deployments/test_probe.py", "deployments/test_progress.py", "deployments/test_radar.py", "deployments/test_rotate.py",
        "deployments/test_scrape.py", "deployments/test_timerange.py", "deployments/test_told_failure.py",
    )
]  # fmt: skip
"""Pure, with a database of its own, about what machines say, or pages: test_urls_by_role.py asks for every page on PostgreSQL too."""
_WORLDS = ("bids", "budget_stop", "choice", "edges", "faults", "life", "listed", "places")
POSTGRESQL_ALONE = [
    "--deselect=tests/deployments/test_crash_matrix.py::test_no_machine_is_rented_twice_or_lost",
    *(f"--ignore=tests/deployments/test_{name}.py" for name in _WORLDS),
]
"""The loop with a bent cloud; on SQLite both emulators take it through the same code. Where there is no PostgreSQL
they run on SQLite."""
REAL_VLLM = "tests/image/test_vllm.py"
PRODUCTION = {
    "REGIA_HTTPS": "1",
    "REGIA_ALLOWED_HOSTS": "panel.example.com",
    "REGIA_EMAIL_BACKEND": "django.core.mail.backends.smtp.EmailBackend",
}


@dataclass
class Step:
    """One command. `missing` says what it needs that is not there; empty: it can run."""

    name: str
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    needs: Callable[[], str] = lambda: ""
    tests: bool = False
    may_be_empty: bool = False
    beside: bool = False
    """May run beside its neighbours."""


@dataclass(frozen=True)
class Options:
    fast: bool
    vllm: bool
    extra: list[str]
    """Arguments for pytest."""


@dataclass(frozen=True)
class Outcome:
    name: str
    word: str
    seconds: float
    processor: float = 0.0
    """Seconds of processors that it took, of those that it started too; not those of a database."""
    detail: str = ""


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        print(f"regia test: {message}; ./regia help lists the flags.", file=sys.stderr)
        sys.exit(2)


def parse(argv: list[str]) -> Options:
    """Exits with code 2 on a bad flag."""
    cut = argv.index("--") if "--" in argv else len(argv)
    parser = Parser(prog="regia test", add_help=False, allow_abbrev=False)
    one = parser.add_mutually_exclusive_group()
    one.add_argument("--fast", action="store_true")
    one.add_argument("--vllm", action="store_true")
    told = parser.parse_args(argv[:cut])
    return Options(told.fast, told.vllm, argv[cut + 1 :])


def steps(*, fast: bool, extra: list[str], scratch: Path) -> Iterator[Step]:
    """What is run, in order: the quick to tell first."""
    if not extra:
        yield from (replace(check, beside=True) for check in _checks(scratch))
    database = os.environ.get("DATABASE_URL") or POSTGRES
    broker = os.environ.get("CELERY_BROKER_URL") or REDIS
    missing = "" if fast else _postgres_missing(database) or _redis_missing(broker)
    sqlite = extra or ([] if fast or missing else POSTGRESQL_ALONE)
    yield _pytest(
        "tests on SQLite",
        "not browser and not services and not image and not vllm and not focus",
        sqlite,
        workers=3,
    )
    if fast:
        return
    yield _pytest(
        # An engine knows nothing of the database: what starts one is run once, on SQLite.
        "tests on PostgreSQL and Redis", "services or not (browser or engine or image or vllm or focus)",
        extra or SQLITE_ALONE, workers=3,
        environment={"DATABASE_URL": database, "CELERY_BROKER_URL": broker},
        needs=lambda: missing,
    )  # fmt: skip
    # Most of them wait: for a door's, a watchdog's or a stream's real seconds.
    yield _pytest("the inference image", "image", extra, workers=6, needs=_nginx_missing)
    if not extra:
        yield Step(
            "the FOCUS validator's packages", [str(BIN / "python"), str(ROOT / "tests" / "focus_venv.py")],
            needs=focus_venv.missing,
        )  # fmt: skip
    yield _pytest(
        "the FOCUS validator", "focus", extra,
        needs=lambda: "" if focus_venv.is_made() else "the validator's packages are not there",
    )  # fmt: skip
    chromium = _chromium()
    yield _pytest(
        "journeys in a browser", "browser", extra, workers=2, dist="loadfile", environment={"CHROMIUM": chromium},
        needs=lambda: "" if chromium else "no Chromium: install it or name it with CHROMIUM=/path",
    )  # fmt: skip


def vllm_steps(extra: list[str]) -> Iterator[Step]:
    """The real vLLM behind the real door: some gigabytes of packages, and minutes."""
    yield Step(
        "vLLM's packages", [str(BIN / "python"), str(ROOT / "tests" / "vllm_venv.py")],
        needs=lambda: vllm_venv.missing() or _nginx_missing(),
    )  # fmt: skip
    yield _pytest(
        "real vLLM", "vllm", extra or [REAL_VLLM],
        needs=lambda: "" if vllm_venv.is_made() else "vLLM's packages are not there",
    )  # fmt: skip


def _checks(scratch: Path) -> Iterator[Step]:
    python = str(BIN / "python")
    templates = [str(p.relative_to(ROOT)) for p in sorted((ROOT / "templates").rglob("*.html"))]
    yield Step("ruff check", [str(BIN / "ruff"), "check", "."])
    yield Step("ruff format", [str(BIN / "ruff"), "format", "--check", "."])
    yield Step("djade", [str(BIN / "djade"), "--check", "--target-version", "6.1", *templates])
    yield Step("import contracts", [str(BIN / "lint-imports"), "--no-cache"])
    yield Step("deptry", [str(BIN / "deptry"), "."])
    yield Step("mypy", [str(BIN / "mypy"), "panel", "billing", "deployments"])
    machine = sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("inference_image/regia_machine/*.py"))
    yield Step(
        "mypy, the image",
        # It runs beside the other, whose cache is of other flags.
        [str(BIN / "mypy"), "--cache-dir", ".mypy_cache/image", "--explicit-package-bases", *machine],
        {"MYPYPATH": "inference_image"},
    )
    yield Step("migrations", [python, "manage.py", "makemigrations", "--check", "--dry-run"])
    deploy = {**PRODUCTION, "REGIA_DATA_DIR": str(scratch)}
    yield Step(
        "check --deploy", [python, "manage.py", "check", "--deploy", "--fail-level", "WARNING"], deploy
    )
    # REGIA_ is taken out of a step's environment, so the folder that keeps the SBOM has another name.
    kept = os.environ.get("SBOM_DIR") or str(scratch / "sbom")
    yield Step("the SBOM", [python, "-W", "ignore", "-m", "tests.supply", "sbom", kept])


def _pytest(
    name: str,
    marker: str,
    extra: list[str],
    *,
    workers: int = 0,
    dist: str = "worksteal",
    environment: dict[str, str] | None = None,
    needs: Callable[[], str] = lambda: "",
) -> Step:
    color = ["--color=yes"] if sys.stdout.isatty() else []
    chosen = set(extra) - {*SQLITE_ALONE, *POSTGRESQL_ALONE, REAL_VLLM}
    spread = ["-n", str(workers), "--dist", dist] if workers and not chosen else []
    command = [str(BIN / "python"), "-m", "pytest", "-q", *color, "-m", marker, *spread, *extra]
    plain = {"DATABASE_URL": "", "CELERY_BROKER_URL": "", **(environment or {})}
    return Step(name, command, plain, needs, tests=True, may_be_empty=bool(chosen))


def _say(text: str) -> None:
    print(text, end="", flush=True)


def run(step: Step, say: Callable[[str], object] = _say) -> Outcome:
    """Run one step, its output as it comes, and say how it went."""
    say(f"\n== {step.name}\n")
    missing = step.needs()
    if missing:
        say(f"{missing}\n")
        return Outcome(step.name, "not run", 0.0, detail=missing)
    began = time.monotonic()
    # The project's own environment: what the person at the terminal has set must not change what is tested.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("REGIA_") or k == "REGIA_LONG"}
    # Every process that a test starts would compile everything again.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    with subprocess.Popen(
        step.command, cwd=ROOT, env={**environment, **step.environment}, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as process:  # fmt: skip
        last = ""
        for line in process.stdout or ():
            say(line)
            last = line.strip() or last
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    # pytest says 5 when nothing is selected: an expression for one step may select nothing in another.
    good = process.returncode == 0 or (step.may_be_empty and process.returncode == 5)
    return Outcome(
        step.name, "ok" if good else "FAILED", time.monotonic() - began, used.ru_utime + used.ru_stime,
        last if step.tests else "",
    )  # fmt: skip


def run_all(steps: Iterable[Step]) -> Iterator[Outcome]:
    """One after the other; those that may run beside each other as many at once as there are cores."""
    for beside, group in groupby(steps, key=lambda step: step.beside):
        some = list(group)
        yield from _run_beside(some) if beside else map(run, some)


def _run_beside(steps: list[Step]) -> Iterator[Outcome]:
    """Each one's output when it is whole, in order."""
    told: list[list[str]] = [[] for _ in steps]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        running = [pool.submit(run, step, lines.append) for step, lines in zip(steps, told, strict=True)]
        for outcome, lines in zip(running, told, strict=True):
            done = outcome.result()
            _say("".join(lines))
            yield done


def _postgres_missing(url: str) -> str:
    import psycopg

    try:
        psycopg.connect(url, connect_timeout=3).close()
    except psycopg.Error as e:
        return f"no PostgreSQL at {url.rpartition('@')[2]}: {str(e).splitlines()[0]}"
    return ""


def _redis_missing(url: str) -> str:
    import redis

    try:
        redis.Redis.from_url(url, socket_connect_timeout=3).ping()
    except redis.RedisError as e:
        return f"no Redis at {url.rpartition('@')[2]}: {e}"
    return ""


def _nginx_missing() -> str:
    return "" if shutil.which("nginx") else "no nginx: install Debian's nginx-light"


def _chromium() -> str:
    named = os.environ.get("CHROMIUM", "")
    return named or next((path for name in CHROMIUMS if (path := shutil.which(name))), "")


def summary(outcomes: list[Outcome], *, strict: bool, seconds: float) -> int:
    """Print how each step went; 0 when all that had to run went well."""
    print("\n== summary")
    for o in outcomes:
        took = f"{o.seconds:7.1f} s {o.processor:7.1f} s CPU"
        print(f"{o.word:>8} {took}  {o.name}{f'  ({o.detail})' if o.detail else ''}")
    failed = [o for o in outcomes if o.word == "FAILED" or (strict and o.word == "not run")]
    processor = sum(o.processor for o in outcomes)
    verdict = f"{len(failed)} of {len(outcomes)} steps failed" if failed else "everything that ran went well"
    print(f"{'':8} {seconds:7.1f} s {processor:7.1f} s CPU  {verdict}", flush=True)
    return 1 if failed else 0


def chosen_steps(options: Options, scratch: Path) -> Iterator[Step]:
    if options.vllm:
        return vllm_steps(options.extra)
    return steps(fast=options.fast, extra=options.extra, scratch=scratch)


def main(argv: list[str]) -> int:
    if argv[:1] == ["--check-flags"]:
        parse(argv[1:])
        return 0
    options = parse(argv)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="regia-check-") as scratch:
        try:
            outcomes = list(run_all(chosen_steps(options, Path(scratch))))
        except KeyboardInterrupt:
            return 130
    strict = os.environ.get("CI", "").lower() in {"1", "true"}
    return summary(outcomes, strict=strict, seconds=time.monotonic() - began)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
