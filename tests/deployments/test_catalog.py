"""The catalogue: what inference_image/models.toml says, and what is said of a file that cannot be used."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deployments import catalog, offers, services
from deployments.catalog import CatalogueError, load
from deployments.lifecycle import State
from deployments.models import Deployment, Event, Instance, Offer, ProviderAccount
from tests import factories
from tests.conftest import NOW
from tests.deployments.world import FOREIGN, CloudWorld
from tests.providers.fakecloud import fake_quote

FP8 = "INFERENCE_REVISION_QWEN3_4B_FP8"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
GOOD = """
[[model]]
key = "one-8b"
name = "One-8B"
precision = "BF16"
repository = "somebody/One-8B"
revision = "0123456789abcdef0123456789abcdef01234567"
weights_bytes = 16_000_000_000
kv_bytes_per_token = 131_072
max_context = 32_768
default_context = 8192
served_name = "one-8b"
needs_gpu = true
sampling = { temperature = 0.7, top_p = 0.8 }
"""


@pytest.fixture
def read(tmp_path: Path) -> Any:
    """Reads a catalogue with this text, and this environment."""

    def read(text: str, **environ: str) -> tuple[catalog.Model, ...]:
        (tmp_path / "models.toml").write_text(text)
        return load(tmp_path / "models.toml", environ)

    return read


# -- the file -----------------------------------------------------------------------------------------


def test_every_model_that_is_rented_is_pinned_by_commit_or_says_that_it_is_not() -> None:
    models = {m.key: m for m in load(catalog.PATH, {})}
    assert set(models) == {"qwen3-4b-bf16", "qwen3-4b-fp8", "qwen3-4b-awq", "smollm2-135m"}
    pinned = {key for key, m in models.items() if re.fullmatch(r"[0-9a-f]{40}", m.revision or "")}
    assert pinned == {"qwen3-4b-bf16", "qwen3-4b-awq"}
    assert {key for key, m in models.items() if m.unpinned} == {"qwen3-4b-fp8"}
    assert {m.served_name for m in models.values() if m.needs_gpu} == {"qwen3-4b"}


def test_a_commit_of_ones_own_stands_over_the_files() -> None:
    models = {m.key: m for m in load(catalog.PATH, {FP8: f" {COMMIT} ", FP8.replace("FP8", "AWQ"): COMMIT})}
    assert models["qwen3-4b-fp8"].revision == models["qwen3-4b-awq"].revision == COMMIT
    assert models["qwen3-4b-fp8"].unpinned == ""


def test_a_model_is_what_its_table_says(read: Any) -> None:
    [model] = read(GOOD)
    assert (model.title, model.revision, model.thinks, model.note) == ("One-8B · BF16", COMMIT, False, "")
    assert model.sampling == catalog.Sampling(0.7, 0.8)
    assert model.memory_needed(8192) == 16_000_000_000 + 131_072 * 8192 * 4 + catalog.GIB
    [thinking] = read(GOOD + "sampling_thinking = { temperature = 0.6, top_p = 0.95, top_k = 20 }\n")
    assert (thinking.thinks, thinking.sampling_thinking) == (True, catalog.Sampling(0.6, 0.95, 20))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('key = "one-8b"', 'key = "One 8B"', "a key has small letters"),
        ('name = "One-8B"\n', "", "lacks name"),
        ("[[model]]", "[[model]]\nprice = 1", "has what no model has: price"),
        ('name = "One-8B"', "name = 8", "name must be a text"),
        ('name = "One-8B"', 'name = " "', "name must be a text"),
        ("max_context = 32_768", "max_context = 0", "max_context must be a whole number"),
        ("max_context = 32_768", "max_context = 4096", "default_context is more than max_context"),
        ("max_context = 32_768", "max_context = true", "max_context must be a whole number"),
        ("needs_gpu = true", 'needs_gpu = "yes"', "needs_gpu must be true or false"),
        (f'"{COMMIT}"', '"main"', "revision must be a commit"),
        ("temperature = 0.7, ", "", "needs temperature and top_p"),
        ("temperature = 0.7", "temperature = nan", "temperature must be a number"),
        ("top_p = 0.8", "top_p = 0.8, top_k = 0.5", "top_k must be a whole number"),
        ("needs_gpu = true", "needs_gpu = true\nmin_cuda = -1", "min_cuda must be a number"),
        (GOOD, "", r"has no \[\[model\]\]"),
        (GOOD, "model = 7", r"has no \[\[model\]\]"),
        (GOOD, "model = [7]", "number 1 of the catalogue is no table"),
        (GOOD, "[[model", "cannot be read"),
        (GOOD, GOOD + GOOD, "has one-8b twice"),
    ],
)
def test_a_catalogue_that_cannot_be_used_is_refused_with_what_is_wrong(
    read: Any, old: str, new: str, said: str
) -> None:
    assert old in GOOD
    with pytest.raises(CatalogueError, match=said):
        read(GOOD.replace(old, new, 1))


@pytest.mark.parametrize("named", ["main", COMMIT[:7], COMMIT.upper(), COMMIT + "0"])
def test_a_branch_or_half_a_commit_pins_nothing(read: Any, named: str) -> None:
    with pytest.raises(
        CatalogueError, match="INFERENCE_REVISION_ONE_8B must be the commit of somebody/One-8B"
    ):
        read(GOOD, INFERENCE_REVISION_ONE_8B=named)


def test_what_comes_with_the_panel_takes_no_commit() -> None:
    with pytest.raises(CatalogueError, match="comes with the panel"):
        load(catalog.PATH, {"INFERENCE_REVISION_SMOLLM2_135M": COMMIT})


def test_the_panel_reads_it_at_its_start_and_says_what_is_wrong() -> None:
    environment = {**os.environ, FP8: "main"}
    done = subprocess.run(
        [sys.executable, "-c", "import deployments.catalog"], env=environment, cwd=catalog.PATH.parent.parent,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert f"{FP8} must be the commit of Qwen/Qwen3-4B-FP8" in done.stderr


# -- what has no commit is not rented -------------------------------------------------------------------


@pytest.fixture
def unpinned(monkeypatch: pytest.MonkeyPatch) -> catalog.Model:
    """The catalogue's FP8 model, as it is without the setting."""
    known = catalog.get_model("qwen3-4b-fp8")
    assert known
    model = replace(known, revision=None)
    monkeypatch.setitem(catalog._BY_KEY, model.key, model)
    return model


def wish(backend: str, **facts: Any) -> Offer:
    account = ProviderAccount.objects.create(name=backend, backend=backend, credentials="a-key")
    offers.store(account, [fake_quote(compute_capability=8.9, **facts)], now=NOW)
    return Offer.objects.select_related("account").get(account=account)


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("backend", "facts"),
    [("runpod", {}), ("vast", {}), ("runpod", {"serverless": True, "tier": "serverless-flex"})],
)
def test_nothing_is_rented_for_a_model_without_a_commit(
    unpinned: catalog.Model, backend: str, facts: dict[str, Any]
) -> None:
    view = offers.judge(wish(backend, **facts), unpinned, context=4096, allowed=("DE",), allow_plaintext=True)
    assert [r for r in view.reasons if "nothing is rented for it" in r and f"set {FP8} to the commit" in r]
    pinned = replace(unpinned, revision=COMMIT)
    again = offers.judge(view.offer, pinned, context=4096, allowed=("DE",), allow_plaintext=True)
    assert again.reasons == ()


@pytest.mark.django_db
def test_a_launch_without_a_commit_is_refused_with_what_to_do(unpinned: catalog.Model) -> None:
    request = services.LaunchRequest(
        name="fp8", model_key=unpinned.key, context=4096, offer_id=wish("runpod").pk, launch_key="k" * 32,
        allowed_countries=("DE",),
    )  # fmt: skip
    with pytest.raises(services.LaunchRefused, match=FP8):
        services.launch(request, actor=factories.operator(), now=NOW)
    assert not Deployment.objects.exists()


@pytest.mark.django_db
def test_this_computer_runs_it_all_the_same(unpinned: catalog.Model) -> None:
    view = offers.judge(wish("local", own_machine=True), unpinned, context=4096, allowed=())
    assert not [r for r in view.reasons if FP8 in r]


def test_a_deployment_that_was_launched_before_rents_no_machine(
    world: CloudWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment = world.launch()
    model = catalog.get_model(deployment.model_key)
    assert model
    monkeypatch.setitem(catalog._BY_KEY, model.key, replace(model, revision=None))
    world.run()
    first = Instance.objects.filter(deployment=deployment).order_by("attempt")[0]
    assert first.status is State.FAILED
    assert Event.objects.filter(instance=first, reason__contains="nothing is rented for it").exists()
    assert world.standing() == [FOREIGN]
