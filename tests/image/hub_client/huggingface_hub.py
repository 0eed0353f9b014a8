"""Stands in for huggingface_hub where that is not installed: the one call that the image makes, over real HTTP.

It asks HF_ENDPOINT for the commit's list of files and for each file, sends HF_TOKEN, leaves an unfinished file
beside what is finished, and raises errors of the library's own names.
"""

from __future__ import annotations

import fnmatch
import json
import os
import urllib.error
import urllib.request
from collections.abc import Sequence
from http.client import HTTPResponse
from pathlib import Path


class HfHubHTTPError(OSError):
    pass


class GatedRepoError(HfHubHTTPError):
    pass


class RepositoryNotFoundError(HfHubHTTPError):
    pass


class RevisionNotFoundError(HfHubHTTPError):
    pass


_NAMED = {
    "GatedRepo": GatedRepoError, "RepoNotFound": RepositoryNotFoundError, "RevisionNotFound": RevisionNotFoundError
}  # fmt: skip


def snapshot_download(repo_id: str, *, revision: str, local_dir: str, ignore_patterns: Sequence[str]) -> str:
    with _open(f"/api/models/{repo_id}/revision/{revision}") as answer:
        told = json.load(answer)
    names = [sibling["rfilename"] for sibling in told["siblings"]]
    for name in names:
        if not any(fnmatch.fnmatch(name, pattern) for pattern in ignore_patterns):
            _save(f"/{repo_id}/resolve/{told['sha']}/{name}", Path(local_dir), name)
    return local_dir


def _save(path: str, folder: Path, name: str) -> None:
    target, unfinished = folder / name, folder / ".cache" / "huggingface" / "download" / f"{name}.incomplete"
    if target.exists():
        return
    for place in (target, unfinished):
        place.parent.mkdir(parents=True, exist_ok=True)
    with _open(path) as answer, unfinished.open("wb") as file:
        while chunk := answer.read1(65_536):
            file.write(chunk)
            file.flush()
    unfinished.replace(target)


def _open(path: str) -> HTTPResponse:
    token = os.environ.get("HF_TOKEN")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        request = urllib.request.Request(os.environ["HF_ENDPOINT"] + path, headers=headers)  # noqa: S310
        return urllib.request.urlopen(request)  # noqa: S310
    except urllib.error.HTTPError as e:
        with e:
            kind = _NAMED.get(e.headers.get("X-Error-Code", ""), HfHubHTTPError)
            raise kind(f"{e.code} for {e.url} with {headers}") from None
