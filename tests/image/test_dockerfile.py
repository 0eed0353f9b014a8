"""What can be said of the image without building it: the Dockerfile, what it copies, how it is built and signed."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import re
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import bake
import hcl2
import pytest
import yaml
from regia_machine import healthcheck

from tests.image.doors import StandIn, open_door

ROOT = Path(__file__).resolve().parent.parent.parent
IMAGE = ROOT / "inference_image"
MODELS = tomllib.loads((IMAGE / "models.toml").read_text(encoding="utf-8"))["model"]
WITH_WEIGHTS = {m["key"] for m in MODELS if m["needs_gpu"]}
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Line(NamedTuple):
    stage: str
    word: str
    rest: str


def dockerfile() -> list[Line]:
    """Its instructions, each on one line, with the stage that each belongs to ("" before the first)."""
    text = (IMAGE / "Dockerfile").read_text(encoding="utf-8")
    joined = re.sub(r"\\\n", " ", re.sub(r"(?m)^\s*#.*\n", "", text))
    lines, stage = [], ""
    for raw in filter(None, map(str.strip, joined.splitlines())):
        word, rest = raw.split(None, 1)
        if word == "FROM":
            stage = rest.split(" AS ")[1]
        lines.append(Line(stage, word, " ".join(rest.split())))
    return lines


def of(word: str, stage: str = "") -> list[str]:
    return [line.rest for line in dockerfile() if line.word == word and stage in ("", line.stage)]


# -- the Dockerfile ---------------------------------------------------------------------------------


def test_hadolint_finds_nothing() -> None:
    found = subprocess.run(
        [Path(sys.executable).with_name("hadolint"), "--config", ".hadolint.yaml", "Dockerfile"],
        cwd=IMAGE, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (found.returncode, found.stdout) == (0, "")


def test_each_rule_that_is_ignored_is_ignored_once_and_has_its_reason() -> None:
    text = (IMAGE / "Dockerfile").read_text(encoding="utf-8")
    assert re.findall(r"hadolint ignore=(.*)", text) == ["DL3008"]
    assert "no version is named" in text
    assert "ignored" not in yaml.safe_load((IMAGE / ".hadolint.yaml").read_text(encoding="utf-8"))


def test_one_argument_says_which_vllm_it_is_and_it_is_a_release() -> None:
    named = [rest for rest in of("ARG") if rest.startswith("VLLM_VERSION=")]
    assert len(named) == 1
    assert re.fullmatch(r"VLLM_VERSION=v\d+\.\d+\.\d+", named[0])
    assert of("FROM") == [
        "vllm/vllm-openai:${VLLM_VERSION} AS plain",
        "plain AS download",
        "plain AS weights",
    ]


def test_it_runs_as_a_user_with_a_number_and_never_as_root_after_the_packages() -> None:
    assert of("USER") == ["0:0", "10001:0"]
    assert "--uid 10001" in of("RUN", "plain")[0]
    words = [line.word for line in dockerfile() if line.stage == "plain"]
    assert words.index("USER") < words.index("RUN") < len(words) - 1 - words[::-1].index("USER")


def test_its_folders_are_writable_for_the_user_and_its_programme_is_not() -> None:
    made = of("RUN", "plain")[0]
    assert "--owner=10001 --group=0 --mode=0750 /var/lib/regia" in made
    assert "--home-dir /home/regia" in made
    assert "HOME=/home/regia" in of("ENV", "plain")[0]
    assert of("WORKDIR") == ["/opt/regia"]
    assert not [rest for rest in of("COPY") if "--chown" in rest], "root owns what is copied"


def test_no_shell_stands_between_the_machine_and_its_signals() -> None:
    assert of("ENTRYPOINT") == ['["python3", "-m", "regia_machine"]']
    assert of("STOPSIGNAL") == ["SIGTERM"]
    assert of("CMD") == []
    [check] = of("HEALTHCHECK")
    assert json.loads(check.partition("CMD ")[2]) == ["python3", "-m", "regia_machine.healthcheck"]
    assert "--start-period=30m" in check


def test_a_token_is_mounted_for_one_step_and_is_no_argument() -> None:
    named = " ".join([*of("ARG"), *of("ENV"), *of("LABEL")])
    assert not re.search(r"TOKEN|SECRET|PASSWORD|API_KEY", named)
    [download] = of("RUN", "download")
    assert "--mount=type=secret,id=hf_token" in download
    assert "HF_TOKEN_PATH=/run/secrets/hf_token" in download


def test_nothing_is_told_to_anybody_about_its_use() -> None:
    told = of("ENV", "plain")[0]
    for switch in ("VLLM_NO_USAGE_STATS=1", "DO_NOT_TRACK=1", "HF_HUB_DISABLE_TELEMETRY=1"):
        assert switch in told


def test_no_package_list_and_no_download_cache_stays_in_it() -> None:
    assert "--no-install-recommends" in of("RUN", "plain")[0]
    assert "rm -rf /var/lib/apt/lists/*" in of("RUN", "plain")[0]
    assert not of("RUN", "weights")
    assert all("--from=download /tmp/baked/" in rest for rest in of("COPY", "weights"))


def test_its_labels_say_what_it_is_and_of_what_it_was_made() -> None:
    labels = dict(re.findall(r'([\w.]+)="([^"]*)"', " ".join(of("LABEL"))))
    name = "org.opencontainers.image."
    for label in (
        "title",
        "description",
        "licenses",
        "source",
        "revision",
        "version",
        "created",
        "base.name",
    ):
        assert labels[name + label]
    assert labels[name + "licenses"] == "Apache-2.0"
    assert labels[name + "base.name"] == "docker.io/vllm/vllm-openai:${VLLM_VERSION}"
    assert labels["regia.model"] == "${MODEL_KEY}"


def test_it_copies_exactly_what_the_machine_needs_and_all_of_it_exists() -> None:
    sources = {s for rest in of("COPY") if "--from" not in rest for s in rest.split()[:-1]}
    assert sources == {"models.toml", "nginx.conf.template", "regia_machine/", "bake.py"}
    assert not [s for s in sources if not (IMAGE / s).exists()]
    assert (IMAGE / "regia_machine" / "__main__.py").is_file()
    assert not [rest for rest in of("COPY", "plain") if "bake.py" in rest], "it is of no use to a machine"


def test_nothing_else_goes_to_the_builder() -> None:
    rules = (IMAGE / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [r for r in rules if r and not r.startswith("#")]
    assert rules[0] == "*"
    let_in = {r.removeprefix("!") for r in rules if r.startswith("!")}
    assert let_in == {"models.toml", "nginx.conf.template", "bake.py", "regia_machine"}
    kept_out = [r for r in rules[1:] if not r.startswith("!")]
    for litter in ("regia_machine/__pycache__", "regia_machine/door.cpython-312.pyc"):
        assert any(fnmatch.fnmatch(litter, r) for r in kept_out)


# -- how it is built --------------------------------------------------------------------------------


def bake_file() -> dict[str, dict[str, Any]]:
    """target -> its attributes, what it inherits merged in. Texts keep their quotes off."""
    with (IMAGE / "docker-bake.hcl").open(encoding="utf-8") as file:
        raw = _bare(hcl2.load(file))
    own = {name: body for block in raw["target"] for name, body in block.items()}
    return {name: _merged(own, name) for name in own}


def _bare(value: Any) -> Any:
    if isinstance(value, dict):
        return {_bare(k): _bare(v) for k, v in value.items() if not str(k).startswith("__")}
    if isinstance(value, list):
        return [_bare(item) for item in value]
    return value.strip('"') if isinstance(value, str) else value


def _merged(own: dict[str, dict[str, Any]], name: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for parent in own[name].get("inherits", []):
        found |= _merged(own, parent)
    return {**found, **own[name], "args": {**found.get("args", {}), **own[name].get("args", {})}}


def test_there_is_a_target_for_the_bare_image_and_for_each_model() -> None:
    targets = {name: t for name, t in bake_file().items() if not name.startswith("_")}
    assert set(targets) == {"plain"} | WITH_WEIGHTS
    assert targets["plain"]["target"] == "plain"
    for key in WITH_WEIGHTS:
        assert (targets[key]["target"], targets[key]["args"]["MODEL_KEY"]) == ("weights", key)
        assert targets[key]["args"]["MODEL_REVISION"] == f"INFERENCE_REVISION_{key.upper().replace('-', '_')}"
        assert targets[key]["tags"] == [f"${{IMAGE}}:${{VERSION}}-{key}"]


def test_every_target_comes_with_its_provenance_and_its_bill_of_materials() -> None:
    for name, target in bake_file().items():
        if not name.startswith("_"):
            assert target["attest"] == ["type=provenance,mode=max", "type=sbom"]
            assert target["platforms"] == ["linux/amd64"]
            assert (IMAGE / target["dockerfile"]).is_file()


def test_every_argument_that_is_handed_over_exists_and_is_a_variable() -> None:
    text = (IMAGE / "docker-bake.hcl").read_text(encoding="utf-8")
    variables = set(re.findall(r'variable "(\w+)"', text))
    declared = {rest.partition("=")[0] for rest in of("ARG")}
    for target in bake_file().values():
        assert set(target["args"]) <= declared
        assert {v for k, v in target["args"].items() if k != "MODEL_KEY"} <= variables


def test_the_token_is_a_secret_of_the_build_and_no_argument() -> None:
    targets = bake_file()
    assert targets["qwen3-4b-awq"]["secret"] == ["type=env,id=hf_token,env=HF_TOKEN"]
    assert not [name for t in targets.values() for name in t["args"] if "TOKEN" in name]


# -- what is built in -------------------------------------------------------------------------------


CATALOGUE = (IMAGE / "models.toml").read_text(encoding="utf-8")


@pytest.mark.parametrize("key", sorted(WITH_WEIGHTS))
def test_a_commit_that_is_built_in_is_written_where_the_machine_looks(key: str) -> None:
    pinned = {m["key"]: m for m in tomllib.loads(bake.pin(CATALOGUE, key, COMMIT))["model"]}
    before = {m["key"]: m for m in MODELS}
    assert pinned.pop(key) == {**before.pop(key), "revision": COMMIT}
    assert pinned == before, "the others are as they were"


def test_a_model_without_a_commit_is_not_built_in() -> None:
    fp8 = bake.find(CATALOGUE, "qwen3-4b-fp8")
    with pytest.raises(bake.Refused, match="name one in MODEL_REVISION"):
        bake.commit_of(fp8, "")
    assert bake.commit_of(fp8, COMMIT) == COMMIT
    assert bake.commit_of(bake.find(CATALOGUE, "qwen3-4b-awq"), "").startswith("136f16ff")


@pytest.mark.parametrize("named", ["main", "136f16ff", COMMIT.upper()])
def test_a_branch_is_not_built_in(named: str) -> None:
    with pytest.raises(bake.Refused):
        bake.commit_of(bake.find(CATALOGUE, "qwen3-4b-awq"), named)


@pytest.mark.parametrize("key", ["", "gpt", "smollm2-135m"])
def test_only_what_runs_on_a_rented_gpu_is_built_in(key: str) -> None:
    with pytest.raises(bake.Refused, match="qwen3-4b-awq"):
        bake.find(CATALOGUE, key)


def test_a_file_that_did_not_arrive_whole_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"weights")
    (tmp_path / "b.safetensors").write_bytes(b"half")
    digest = hashlib.sha256(b"weights").hexdigest()
    expected = {"a.safetensors": digest, "b.safetensors": digest, "c.safetensors": digest, "d.gguf": digest}
    assert bake.wrong_files(tmp_path, expected) == ["b.safetensors", "c.safetensors"]


def test_a_refusal_is_one_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, IMAGE / "bake.py", "qwen3-4b-fp8", "", tmp_path / "baked"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("bake: No commit of Qwen/Qwen3-4B-FP8 is known")
    assert not (tmp_path / "baked").exists()


# -- its health -------------------------------------------------------------------------------------


class Door(BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/health" else 404)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def door() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Door) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.mark.parametrize(
    ("environ", "url"),
    [
        ({}, "https://127.0.0.1:8000/health"),
        ({"REGIA_PORT": "9000", "REGIA_DOOR": "plain"}, "http://127.0.0.1:9000/health"),
        ({"PORT": "80", "REGIA_DOOR": "plain"}, "http://127.0.0.1:80/health"),
        ({"REGIA_PORT": "9000", "PORT": "80"}, "https://127.0.0.1:9000/health"),
    ],
)
def test_the_health_is_asked_where_the_door_is(environ: dict[str, str], url: str) -> None:
    assert healthcheck.address(environ) == url


def test_the_health_is_the_doors_answer(door: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    url = healthcheck.address({"REGIA_PORT": str(door), "REGIA_DOOR": "plain"})
    assert healthcheck.is_well(url)
    monkeypatch.setattr(Door, "status", 503)
    assert not healthcheck.is_well(url)


@pytest.mark.image
@pytest.mark.parametrize("tls", [False, True])
def test_the_real_door_is_well_when_its_engine_is(folder: Path, engine: StandIn, *, tls: bool) -> None:
    with open_door(folder, engine, tls=tls) as opened:
        scheme = "https" if tls else "http"
        assert healthcheck.is_well(f"{scheme}://127.0.0.1:{opened.port}/health")


def test_no_door_is_no_health() -> None:
    assert not healthcheck.is_well("http://127.0.0.1:9/health")
    assert not healthcheck.is_well("https://127.0.0.1:9/health")


# -- how it is published ----------------------------------------------------------------------------


def workflow() -> dict[Any, Any]:
    text = (ROOT / ".github" / "workflows" / "inference-image.yml").read_text(encoding="utf-8")
    return dict(yaml.safe_load(text))


def steps() -> list[dict[str, Any]]:
    return [step for job in workflow()["jobs"].values() for step in job["steps"]]


def test_every_action_is_pinned_by_its_full_commit() -> None:
    used = [step["uses"] for step in steps() if "uses" in step]
    assert used
    assert all(re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}", name) for name in used)


def test_it_may_write_packages_and_sign_and_nothing_else() -> None:
    assert workflow()["permissions"] == {}
    [job] = workflow()["jobs"].values()
    assert job["permissions"] == {"contents": "read", "packages": "write", "id-token": "write"}
    checkout = next(s for s in steps() if s.get("uses", "").startswith("actions/checkout@"))
    assert checkout["with"]["persist-credentials"] is False


def test_what_is_signed_and_tagged_is_what_was_scanned() -> None:
    at = {
        name: n
        for n, step in enumerate(steps())
        for name in ("bake", "trivy", "cosign sign")
        if name in json.dumps(step)
    }
    assert at["bake"] < at["trivy"] < at["cosign sign"]
    scan = next(step for step in steps() if "trivy" in step.get("uses", ""))
    assert scan["with"]["image-ref"] == "${{ env.CANDIDATE }}"
    assert (scan["with"]["exit-code"], "CRITICAL" in scan["with"]["severity"]) == ("1", True)
    signing = steps()[-1]["run"]
    assert 'cosign sign --yes "$CANDIDATE"' in signing
    assert signing.index("cosign sign") < signing.index("--tag")


def test_a_pull_request_pushes_nothing() -> None:
    for step in steps():
        if (
            step.get("with", {}).get("push")
            or "login-action" in step.get("uses", "")
            or "cosign" in json.dumps(step)
        ):
            assert step["if"] == "env.PUSHES == 'true'"


def test_what_can_be_asked_for_by_hand_is_what_can_be_built() -> None:
    text = workflow()
    # YAML 1.1 reads the key `on` as true.
    options = text[True]["workflow_dispatch"]["inputs"]["target"]["options"]
    assert set(options) == {"plain"} | WITH_WEIGHTS


def test_no_run_line_takes_a_value_that_somebody_else_wrote() -> None:
    assert not [step for step in steps() if "${{" in step.get("run", "")]


def test_it_goes_to_this_repositorys_own_registry() -> None:
    named = next(step["run"] for step in steps() if "IMAGE=" in step.get("run", ""))
    assert "IMAGE=ghcr.io/${REPOSITORY,,}/inference" in named
    text = (ROOT / ".github" / "workflows" / "inference-image.yml").read_text(encoding="utf-8")
    assert set(re.findall(r"\b[a-z0-9-]+\.(?:io|org|com|dev)\b", text)) == {"ghcr.io"}
