"""What the machine is told: every wrong value has its sentence, and no sentence has a secret."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from regia_machine import environment
from regia_machine.environment import Settings
from regia_machine.exits import Exit, Unfit

from tests.image.running import COMMIT, KEY, running, variables

SOUND = {
    "REGIA_MODEL": "Qwen/Qwen3-4B-AWQ",
    "REGIA_REVISION": COMMIT,
    "REGIA_SERVED_NAME": "qwen3-4b",
    "REGIA_CONTEXT": "8192",
    "REGIA_API_KEY": KEY,
    "REGIA_DOOR": "plain",
}
START = datetime(2026, 11, 24, tzinfo=UTC)


def pair(*, key: ec.EllipticCurvePrivateKey | None = None) -> dict[str, str]:
    """The variables of a key and a self-signed certificate, as the panel makes them."""
    own = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a.machine.invalid")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(own.public_key())
        .serial_number(1)
        .not_valid_before(START)
        .not_valid_after(START + timedelta(days=1826))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("a.machine.invalid")]), critical=False)
        .sign(own, hashes.SHA256())
    )
    der = (key or own).private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    text = base64.b64encode(certificate.public_bytes(serialization.Encoding.DER)).decode()
    pieces = [text[i : i + 256] for i in range(0, len(text), 256)]
    return {
        "REGIA_TLS_KEY": base64.b64encode(der).decode(),
        **{f"REGIA_TLS_CERT_{number}": piece for number, piece in enumerate(pieces, 1)},
    }


def read(**changes: str) -> Settings:
    return environment.read({**SOUND, **changes})


def refusal(environ: dict[str, str]) -> str:
    with pytest.raises(Unfit) as caught:
        environment.read(environ)
    assert caught.value.code == Exit.ENVIRONMENT
    return caught.value.cause


# -- what is right ------------------------------------------------------------------------------


def test_the_least_environment_gets_the_documented_defaults():
    settings = read()

    assert (settings.port, settings.health_port, settings.tls) == (8000, None, None)
    assert (settings.gpu_memory, settings.max_sequences, settings.quantization) == (0.9, None, "")
    assert (settings.reasoning_parser, settings.extra_arguments) == ("qwen3", ())
    assert (settings.lease_seconds, settings.drain_seconds) == (7200, 120)
    assert (settings.vast_url, settings.runpod_url) == ("https://console.vast.ai", "https://api.runpod.io")
    assert (settings.run_dir, settings.state_dir) == (Path("/dev/shm/regia"), Path("/var/lib/regia"))  # noqa: S108
    assert settings.checks
    assert settings.cuda_min == (12, 8)
    assert settings.hf_endpoint == "https://huggingface.co"


def test_its_own_ports_differ_from_each_other_and_from_the_doors():
    for _ in range(20):
        settings = read(PORT_HEALTH="8001")
        assert len({settings.port, settings.health_port, settings.engine_port, settings.lease_port}) == 4


def test_a_folder_needs_no_revision(tmp_path):
    environ = {**SOUND, "REGIA_MODEL": str(tmp_path)}
    del environ["REGIA_REVISION"]

    settings = environment.read(environ)

    assert settings.is_folder
    assert settings.revision == ""


def test_a_model_that_is_not_qwen3_gets_no_reasoning_parser_of_its_own():
    assert read(REGIA_MODEL="acme/small").reasoning_parser == ""
    assert read(REGIA_REASONING_PARSER="").reasoning_parser == ""
    assert read(REGIA_MODEL="acme/small", REGIA_REASONING_PARSER="granite").reasoning_parser == "granite"


def test_the_port_of_a_load_balancers_worker_counts_where_none_is_given():
    assert read(PORT="80", PORT_HEALTH="80").port == 80
    assert read(PORT="80", PORT_HEALTH="80").health_port is None
    assert read(PORT="80", PORT_HEALTH="81").health_port == 81
    assert read(PORT="80", REGIA_PORT="8000").port == 8000
    assert read(PORT_HEALTH="81").health_path == "/ping"
    assert read(PORT_HEALTH="81", HEALTH_CHECK_PATH="/healthz").health_path == "/healthz"


def test_a_key_and_a_certificate_in_pieces_become_pem():
    variables = pair()
    assert "REGIA_TLS_CERT_2" in variables
    assert all(len(value) <= 256 for value in variables.values())

    tls = read(REGIA_DOOR="tls", **variables).tls

    assert tls is not None
    key = serialization.load_pem_private_key(tls.key_pem.encode(), None)
    certificate = x509.load_pem_x509_certificate(tls.certificate_pem.encode())
    assert key.public_key() == certificate.public_key()


def test_more_arguments_are_split_as_a_shell_does():
    text = """--enable-auto-tool-choice --tool-call-parser hermes --default-chat-template-kwargs '{"a": false}' -O3"""

    assert read(REGIA_EXTRA_ARGS=text).extra_arguments == (
        "--enable-auto-tool-choice", "--tool-call-parser", "hermes",
        "--default-chat-template-kwargs", '{"a": false}', "-O3",
    )  # fmt: skip


@pytest.mark.parametrize(
    "text", ["--max-num-batched-tokens 4096", "--kv-cache-dtype=fp8", "-tp 2", "--enforce-eager"]
)
def test_arguments_that_open_nothing_are_taken(text):
    assert read(REGIA_EXTRA_ARGS=text).extra_arguments == tuple(text.split())


def test_no_lease_is_a_choice_and_not_a_default():
    assert read(REGIA_LEASE_SECONDS="0").lease_seconds == 0
    assert read(REGIA_LEASE_SECONDS="").lease_seconds == 7200


def test_a_provider_on_this_machine_may_be_asked_without_tls():
    assert read(REGIA_VAST_URL="http://127.0.0.1:9/").vast_url == "http://127.0.0.1:9"


# -- what is wrong ------------------------------------------------------------------------------

WRONG = [
    ("REGIA_MODEL", "", "is missing"),
    ("REGIA_MODEL", "Qwen3-4B", "owner/name"),
    ("REGIA_MODEL", "a/b/c", "owner/name"),
    ("REGIA_MODEL", "../secrets/x", "owner/name"),
    ("REGIA_MODEL", "acme/sm..all", "owner/name"),
    ("REGIA_MODEL", "acme/small;id", "owner/name"),
    ("REGIA_MODEL", "--help/x", "owner/name"),
    ("REGIA_MODEL", "https://huggingface.co/acme/small", "owner/name"),
    ("REGIA_MODEL", "/no/such/folder", "does not exist"),
    ("REGIA_REVISION", "", "commit"),
    ("REGIA_REVISION", "main", "commit"),
    ("REGIA_REVISION", COMMIT[:12], "commit"),
    ("REGIA_REVISION", COMMIT.upper(), "commit"),
    ("REGIA_SERVED_NAME", "", "is missing"),
    ("REGIA_SERVED_NAME", "two words", "name in the API"),
    ("REGIA_SERVED_NAME", "--host", "name in the API"),
    ("REGIA_SERVED_NAME", "n" * 129, "name in the API"),
    ("REGIA_CONTEXT", "", "from 256 to 1048576"),
    ("REGIA_CONTEXT", "255", "from 256 to 1048576"),
    ("REGIA_CONTEXT", "1048577", "from 256 to 1048576"),
    ("REGIA_CONTEXT", "8k", "from 256 to 1048576"),
    ("REGIA_CONTEXT", "-8192", "from 256 to 1048576"),
    ("REGIA_CONTEXT", "8192.0", "from 256 to 1048576"),
    ("REGIA_CONTEXT", "٨١٩٢", "from 256 to 1048576"),
    ("REGIA_CONTEXT", "9" * 5000, "from 256 to 1048576"),
    ("REGIA_API_KEY", "", "16 to 200"),
    ("REGIA_API_KEY", "k" * 15, "16 to 200"),
    ("REGIA_API_KEY", "k" * 201, "16 to 200"),
    ("REGIA_API_KEY", 'key-with-"quotes"-in-it', "16 to 200"),
    ("REGIA_API_KEY", "key-with\nanother-line-in-it", "16 to 200"),
    ("REGIA_PORT", "0", "from 1 to 65535"),
    ("REGIA_PORT", "65536", "from 1 to 65535"),
    ("REGIA_PORT", "http", "from 1 to 65535"),
    ("PORT", "80/tcp", "from 1 to 65535"),
    ("PORT_HEALTH", "-1", "from 1 to 65535"),
    ("HEALTH_CHECK_PATH", "ping", "begins with /"),
    ("HEALTH_CHECK_PATH", "/a b{}", "begins with /"),
    ("REGIA_DOOR", "open", "tls or plain"),
    ("REGIA_GPU_MEMORY", "0.99", "from 0.1 to 0.98"),
    ("REGIA_GPU_MEMORY", "0.05", "from 0.1 to 0.98"),
    ("REGIA_GPU_MEMORY", "nan", "from 0.1 to 0.98"),
    ("REGIA_GPU_MEMORY", "90%", "from 0.1 to 0.98"),
    ("REGIA_MAX_SEQUENCES", "0", "from 1 to 1024"),
    ("REGIA_MAX_SEQUENCES", "1025", "from 1 to 1024"),
    ("REGIA_QUANTIZATION", "awq --port 1", "quantization"),
    ("REGIA_REASONING_PARSER", "qwen3;id", "parser"),
    ("REGIA_LEASE_SECONDS", "299", "from 300 to 604800, or 0"),
    ("REGIA_LEASE_SECONDS", "604801", "from 300 to 604800, or 0"),
    ("REGIA_LEASE_SECONDS", "never", "from 300 to 604800, or 0"),
    ("REGIA_DRAIN_SECONDS", "3601", "from 0 to 3600"),
    ("REGIA_VAST_URL", "http://console.vast.ai", "https://"),
    ("REGIA_VAST_URL", "console.vast.ai", "https://"),
    ("REGIA_VAST_URL", "https://", "https://"),
    ("REGIA_RUNPOD_URL", "ftp://api.runpod.io", "https://"),
    ("REGIA_RUNPOD_URL", "https://api.runpod.io:port", "https://"),
    ("HF_ENDPOINT", "https://user:pass@mirror.example.com", "https://"),
    ("REGIA_RUN_DIR", "run", "absolute path"),
    ("REGIA_STATE_DIR", "./state", "absolute path"),
    ("REGIA_WEIGHTS_DIR", "models", "absolute path"),
    ("REGIA_ENGINE_COMMAND", "engine --port 8001", "{port}"),
    ("REGIA_ENGINE_COMMAND", "engine '--port {port}", "quotes"),
    ("REGIA_CHECKS", "no", "on or off"),
    ("REGIA_CUDA_MIN", "twelve", "12.8"),
]


@pytest.mark.parametrize(("name", "value", "advice"), WRONG)
def test_a_wrong_value_is_told_with_its_name_and_what_to_give(name, value, advice):
    sentence = refusal({**SOUND, name: value})

    assert sentence.startswith(f"{name} ")
    assert advice in sentence
    assert sentence.endswith(".")


FORBIDDEN = [
    "--host 0.0.0.0", "--host=0.0.0.0", "--HOST=0.0.0.0", "--ho 0.0.0.0", "--port 80", "--po=80", "--uds /tmp/x",
    "--api-key another", "--api_key another", "--ssl-keyfile x", "--ssl_certfile=x", "--ssl-ca-certs x",
    "--root-path /x", "--middleware evil.Middleware", "--middleware+=evil", "--allow-credentials",
    "--allowed-origins '[\"*\"]'", "--allowed-local-media-path /", "--trust-remote-code", "--trust_remote_code",
    "--trust", "--enable-log-requests", "--enable-log-outputs", "--served-model-name x", "--model other/model",
    "--revision main", "--tokenizer other/model", "--hf-token x", "--max-model-len 9", "--config /tmp/x.yaml",
    "--config.host=0.0.0.0", "--grpc", "--headless", "--kv-events-config {}", "--kv-transfer-config.role=x",
    "--tool-server demo", "--tool-parser-plugin /tmp/x.py", "--worker-cls evil.Worker", "--master-addr 0.0.0.0",
    "--otlp-traces-endpoint http://x", "--uvicorn-log-level trace", "-q awq", "-qawq", "-dpa 0.0.0.0", "-n 2", "--",
    "--enforce-eager --host 0.0.0.0", "positional",
]  # fmt: skip


@pytest.mark.parametrize("text", FORBIDDEN)
def test_arguments_that_would_open_another_door_are_refused(text):
    assert refusal({**SOUND, "REGIA_EXTRA_ARGS": text}).startswith("REGIA_EXTRA_ARGS is wrong: ")


def test_arguments_with_an_open_quote_are_refused():
    assert "split" in refusal({**SOUND, "REGIA_EXTRA_ARGS": "--override '{"})


# -- TLS that is wrong --------------------------------------------------------------------------


def with_tls(**changes: str) -> dict[str, str]:
    return {**SOUND, "REGIA_DOOR": "tls", **pair(), **changes}


def test_the_door_is_not_plain_unless_that_is_asked_for():
    environ = dict(SOUND)
    del environ["REGIA_DOOR"]

    assert "REGIA_TLS_KEY is missing" in refusal(environ)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"REGIA_TLS_KEY": ""}, "REGIA_TLS_KEY is missing"),
        ({"REGIA_TLS_KEY": "not base64!"}, "REGIA_TLS_KEY is not base64"),
        ({"REGIA_TLS_KEY": "aGVsbG8gd29ybGQ="}, "are no pair"),
        ({"REGIA_TLS_CERT_1": ""}, "have a gap"),
        (
            {"REGIA_TLS_CERT_1": "", "REGIA_TLS_CERT_2": "", "REGIA_TLS_CERT_3": ""},
            "REGIA_TLS_CERT_1 to _4 is missing",
        ),
        ({"REGIA_TLS_CERT_2": ""}, "are no pair"),
        ({"REGIA_TLS_CERT_1": "*"}, "is not base64"),
    ],
)
def test_tls_that_is_incomplete_is_told(changes, sentence):
    environ = with_tls(**changes)

    told = refusal(environ)

    assert sentence in told
    assert environ["REGIA_TLS_KEY"][:20] not in told or not environ["REGIA_TLS_KEY"]


def test_a_key_of_another_certificate_is_refused():
    other = pair(key=ec.generate_private_key(ec.SECP256R1()))

    told = refusal({**SOUND, "REGIA_DOOR": "tls", **other})

    assert "are no pair" in told
    assert other["REGIA_TLS_KEY"] not in told


# -- secrets ------------------------------------------------------------------------------------


def test_no_secret_is_in_the_repr_of_the_settings():
    variables = pair()
    settings = read(
        REGIA_DOOR="tls", HF_TOKEN="hf_secret_token", CONTAINER_API_KEY="vast-secret", **variables
    )

    shown = repr(settings)

    assert KEY not in shown
    assert "hf_secret_token" not in shown
    assert "vast-secret" not in shown
    assert "PRIVATE KEY" not in shown


def test_every_secret_is_known_for_masking_longest_first():
    given = pair()
    settings = read(
        REGIA_DOOR="tls", HF_TOKEN="hf_secret_token", CONTAINER_API_KEY="vast-secret", RUNPOD_API_KEY="runpod-secret",
        JUPYTER_TOKEN="jupyter-secret", **given,
    )  # fmt: skip

    assert settings.tls is not None
    lines = settings.tls.key_pem.splitlines()[1:-1]
    assert {
        KEY,
        "hf_secret_token",
        "vast-secret",
        "runpod-secret",
        "jupyter-secret",
        given["REGIA_TLS_KEY"],
    } <= set(settings.secrets)
    assert set(lines) <= set(settings.secrets)
    assert list(settings.secrets) == sorted(settings.secrets, key=len, reverse=True)


def test_a_refused_key_is_not_repeated():
    key = "kept/secret/but/not/of/the/right/form"

    assert key not in refusal({**SOUND, "REGIA_API_KEY": key})


# -- as a process -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("REGIA_MODEL", ""), ("REGIA_REVISION", "main"), ("REGIA_CONTEXT", "8k"), ("REGIA_API_KEY", "short-secret"),
        ("REGIA_DOOR", "tls"), ("REGIA_EXTRA_ARGS", "--host 0.0.0.0"), ("REGIA_LEASE_SECONDS", "1"),
        ("REGIA_STATE_DIR", "/proc/regia"),
    ],
)  # fmt: skip
def test_a_wrong_environment_ends_the_process_with_64_and_its_sentence(tmp_path, name, value):
    with running(tmp_path, variables(tmp_path, **{name: value})) as machine:
        last = machine.end()

    assert last.values["code"] == "64"
    assert name.removesuffix("_DIR") in last.values["cause"] or "REGIA_TLS_KEY" in last.values["cause"]
    assert "short-secret" not in machine.output
    assert machine.phases() == ["checking", "exited", "exit"]
    assert not machine.told.exists()
