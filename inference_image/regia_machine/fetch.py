"""Downloads a repository at one commit. A process of its own, so that it can be ended at any moment.

Run as `python -m regia_machine.fetch <repository> <revision> <folder>`; Hugging Face's own variables say the
server and the token. Its last line is `failed: <why>` when it fails.
"""

from __future__ import annotations

import sys

_UNUSED = ["*.gguf", "*.h5", "*.msgpack", "*.onnx", "*.pth", "*.pt", "original/*", "onnx/*"]
"""Other forms of the same weights, which vLLM does not read here."""
_REASONS = {
    "GatedRepoError": "the repository is gated: HF_TOKEN has to belong to somebody who may read it",
    "RepositoryNotFoundError": "there is no such repository, or HF_TOKEN may not see it",
    "RevisionNotFoundError": "the repository has no such commit",
}


def main(repository: str, revision: str, folder: str) -> int:
    try:
        from huggingface_hub import snapshot_download  # type: ignore[import-not-found]
    except ImportError:
        return _failed("huggingface_hub is not installed here")
    try:
        snapshot_download(repository, revision=revision, local_dir=folder, ignore_patterns=_UNUSED)
    except Exception as e:  # Whatever it is, the machine says it and ends.
        return _failed(_reason(e))
    return 0


def _failed(why: str) -> int:
    sys.stdout.write(f"failed: {why}\n")
    return 1


def _reason(error: Exception) -> str:
    name = type(error).__name__
    if name == "LocalEntryNotFoundError":
        # It looked on the disk after the server had failed; what the server did stands behind it.
        return f"the server failed or was out of reach ({_told(error.__cause__ or error)})"
    return _REASONS.get(name) or _told(error)


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:4]))
