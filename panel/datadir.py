"""The data folder: made on first start, its secrets readable by their owner alone."""

from __future__ import annotations

import base64
import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path

from cryptography.fernet import Fernet
from django.core.exceptions import ImproperlyConfigured


def ensure(folder: Path) -> None:
    """Make the folder and its rooms. Raises ImproperlyConfigured when it cannot be written."""
    try:
        for room in ("", "broker/queue", "broker/control", "engines", "logs", "static"):
            (folder / room).mkdir(parents=True, exist_ok=True, mode=0o700)
        if folder.stat().st_uid == os.getuid() and folder.stat().st_mode & 0o077:
            # A folder that somebody made before us: sessions and addresses in it are nobody else's.
            folder.chmod(0o700)
    except OSError as e:
        raise ImproperlyConfigured(f"The data folder {folder} cannot be written: {e.strerror}.") from e


def secret(path: Path) -> str:
    """The secret kept in `path`, made with 50 random bytes and mode 0600 when there is none."""
    return _read_or_create(path, secrets.token_urlsafe(50))


def fernet_keys(path: Path) -> list[str]:
    """Fernet keys in `path`, newest first, one a line; one is made when there is none."""
    return _read_or_create(path, Fernet.generate_key().decode()).split()


def signing_key(path: Path) -> str:
    """The key kept in `path` that signs webhooks, made with 32 random bytes when there is none."""
    return _read_or_create(path, f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}")


def _read_or_create(path: Path, fresh: str) -> str:
    # Written whole under another name, then linked: two processes that start at once agree on one secret.
    if not path.exists():
        draft = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
        try:
            fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(fd, "w") as f:
                f.write(fresh + "\n")
                f.flush()
                os.fsync(f.fileno())
            try:
                os.link(draft, path)
            except FileExistsError:
                pass
            finally:
                draft.unlink()
        except OSError as e:
            raise ImproperlyConfigured(f"The secret {path} cannot be written: {e.strerror}.") from e
    value = _read(path, nobody=0o077)
    if not value:
        raise ImproperlyConfigured(f"The secret {path} is empty: restore it from a backup.")
    return value


# -- secrets that somebody gives ------------------------------------------------------------------------


def given(name: str, environment: Mapping[str, str] | None = None) -> str:
    """The secret `name` from the environment, or from the file that `<name>_FILE` names; empty when neither is set.

    A file keeps it out of the environment, which every child and whoever may read /proc sees. Raises
    ImproperlyConfigured for both at once, and for a file that is absent, empty or open to others.
    """
    environment = os.environ if environment is None else environment
    value = environment.get(name, "").strip()
    path = environment.get(f"{name}_FILE", "").strip()
    if not path:
        return value
    if value:
        raise ImproperlyConfigured(f"{name} and {name}_FILE are both set: keep one.")
    # A group may read it: that is how a cluster hands a mounted secret to a process that is not root.
    value = read(Path(path))
    if not value:
        raise ImproperlyConfigured(f"{path}, which {name}_FILE names, is empty.")
    return value


def read(path: Path) -> str:
    """The text of a secret's file that somebody gave, or that we made."""
    return _read(path, nobody=0o027)


def _read(path: Path, *, nobody: int) -> str:
    """The text of a secret's file. `nobody`: the permissions that it must not have."""
    try:
        with path.open() as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & nobody:
                raise ImproperlyConfigured(
                    f"The secret {path} is open to others (mode {mode:04o}): run chmod {mode & ~nobody:04o} {path}."
                )
            return file.read().strip()
    except UnicodeDecodeError:
        raise ImproperlyConfigured(f"The secret {path} is not text.") from None
    except OSError as e:
        raise ImproperlyConfigured(f"The secret {path} cannot be read: {e.strerror}.") from e


def replace(path: Path, text: str) -> None:
    """Put `text` in the secret's file: whole or not at all, readable by its owner alone."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(fd, "w") as f:
            f.write(text)
            f.flush()
            os.fsync(f.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
