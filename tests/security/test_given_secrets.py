"""A secret may come from a file, which nobody else may read."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from cryptography.fernet import Fernet
from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured

from panel import datadir


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "one"
    path.write_text("from the file\n")
    path.chmod(0o440)
    return path


def test_a_secret_comes_from_the_file_that_is_named(file):
    assert datadir.given("A", {"A_FILE": str(file)}) == "from the file"
    assert datadir.given("A", {"A": " plain "}) == "plain"
    assert datadir.given("A", {}) == ""


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o460])
def test_a_file_that_others_may_read_is_refused_with_what_to_do(file, mode):
    file.chmod(mode)
    with pytest.raises(ImproperlyConfigured, match=rf"open to others \(mode {mode:04o}\): run chmod 0[64]"):
        datadir.given("A", {"A_FILE": str(file)})


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"A": "x", "A_FILE": "{file}"}, "both set"),
        ({"A_FILE": "{file}-not"}, "cannot be read: No such file"),
        ({"A_FILE": "/dev/null"}, "is "),
    ],
)
def test_what_cannot_be_used_is_told(file, values, said):
    with pytest.raises(ImproperlyConfigured, match=said) as told:
        datadir.given("A", {name: value.format(file=file) for name, value in values.items()})
    assert "from the file" not in str(told.value)


def test_our_own_file_that_was_opened_to_others_is_refused(tmp_path):
    path = tmp_path / "field_keys"
    [key] = datadir.fernet_keys(path)
    path.chmod(0o640)
    with pytest.raises(ImproperlyConfigured, match="chmod 0600") as told:
        datadir.fernet_keys(path)
    assert key not in str(told.value)


def test_the_settings_take_every_secret_from_a_file(tmp_path):
    values = {
        "REGIA_SECRET_KEY": "s" * 60, "REGIA_FIELD_KEYS": f"{Fernet.generate_key().decode()}\n{Fernet.generate_key().decode()}",
        "REGIA_METRICS_TOKEN": "m" * 20, "DATABASE_URL": "postgres://u:pw@127.0.0.1/x", "REGIA_EMAIL_PASSWORD": "mailed",
        "CELERY_BROKER_URL": "redis://:pw@127.0.0.1/1",
    }  # fmt: skip
    environment = {k: v for k, v in os.environ.items() if k not in values}
    for name, value in values.items():
        path = tmp_path / name
        path.write_text(value)
        path.chmod(0o400)
        environment[f"{name}_FILE"] = str(path)
    code = (
        "from panel import settings as s; print(s.SECRET_KEY, *s.FIELD_KEYS, s.METRICS_TOKEN, "
        "s.DATABASES['default']['PASSWORD'], s.MAILERS['default']['OPTIONS']['password'], s.CELERY_BROKER_URL)"
    )
    environment |= {
        "REGIA_EMAIL_BACKEND": "django.core.mail.backends.smtp.EmailBackend", "REGIA_DATA_DIR": str(tmp_path / "data"),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=django_settings.BASE_DIR,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    keys = values["REGIA_FIELD_KEYS"].split()
    assert done.stdout.split() == ["s" * 60, *keys, "m" * 20, "pw", "mailed", "redis://:pw@127.0.0.1/1"]
