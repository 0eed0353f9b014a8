"""The model's weights: those that came with the image, or a download of exactly one commit."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from regia_machine import children
from regia_machine.environment import Settings
from regia_machine.exits import Ending, Exit
from regia_machine.models import Model
from regia_machine.report import Report
from regia_machine.waiting import STEP, Look

TELL_SECONDS = 2.0
STALL_SECONDS = 600.0
"""A download that brings nothing for so long will bring nothing more."""
_COMPLETE = ".complete"
_CONFIGURATION = "config.json"


def present(settings: Settings, model: Model | None) -> Path | None:
    """The folder that holds the weights already, or None."""
    if settings.is_folder:
        return Path(settings.model)
    return _baked(settings, model) or _downloaded(settings)


def download_folder(settings: Settings) -> Path:
    """Where this commit's download goes, on the container's disk."""
    return settings.state_dir / "models" / settings.model.replace("/", "--") / settings.revision


def size(folder: Path) -> int:
    """Bytes in the folder, unfinished files among them."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(root, name)).st_size
            except FileNotFoundError:
                continue  # It was renamed in the meantime: the next look counts it.
    return total


def _baked(settings: Settings, model: Model | None) -> Path | None:
    """Only of the commit that is wanted: the image's own may be another."""
    if model is None or model.revision != settings.revision:
        return None
    folder = settings.weights_dir / model.key
    return folder if (folder / _CONFIGURATION).is_file() else None


def _downloaded(settings: Settings) -> Path | None:
    folder = download_folder(settings)
    return folder if (folder / _COMPLETE).is_file() else None


class Download:
    """One download, from its start to its end."""

    def __init__(self, settings: Settings, model: Model | None, report: Report) -> None:
        self._settings = settings
        self._of = model.weights_bytes if model else 0
        self._report = report
        self._said: list[str] = []
        self.folder = download_folder(settings)

    def run(self, look: Look) -> Path:
        """Its folder. Raises Ending when it fails; what came stays there, and the next run goes on from it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        process = children.start(self._command(), self._environment(os.environ))
        listener = children.listen(process, self._report, self._said.append)
        try:
            self._watch(process, look)
        finally:
            children.kill_group(process)
        listener.join(timeout=2)
        if process.returncode != 0:
            raise self._failure(process.returncode)
        return self._completed()

    def _command(self) -> tuple[str, ...]:
        return (
            sys.executable, "-m", "regia_machine.fetch",
            self._settings.model, self._settings.revision, str(self.folder),
        )  # fmt: skip

    def _environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        token = {"HF_TOKEN": self._settings.hf_token} if self._settings.hf_token else {}
        package = str(Path(__file__).resolve().parent.parent)
        paths = (package, *filter(None, (environ.get("PYTHONPATH"),)))
        return {
            **children.inherited(environ),
            **token,
            "HF_ENDPOINT": self._settings.hf_endpoint,
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_OFFLINE": "0",
            "DO_NOT_TRACK": "1",
            "PYTHONPATH": os.pathsep.join(paths),
            "PYTHONUNBUFFERED": "1",
        }

    def _watch(self, process: subprocess.Popen[bytes], look: Look) -> None:
        there, grown_at, told_at = -1, time.monotonic(), 0.0
        while process.poll() is None:
            look()
            now = time.monotonic()
            if now - told_at >= TELL_SECONDS:
                before, there, told_at = there, size(self.folder), now
                self._tell(there)
                grown_at = now if there != before else grown_at
            if now - grown_at > STALL_SECONDS:
                raise Ending(Exit.DOWNLOAD, f"The download brought nothing for {STALL_SECONDS:g} seconds.")
            time.sleep(STEP)

    def _tell(self, there: int) -> None:
        if not self._of:
            self._report.phase("downloading", bytes=there)
            return
        # What lies beside the weights is small and not counted in `of`.
        shown = min(there, self._of)
        self._report.phase("downloading", bytes=shown, of=self._of, percent=100 * shown // self._of)

    def _failure(self, code: int) -> Ending:
        reasons = [text.partition("failed: ")[2] for text in self._said if text.startswith("failed: ")]
        reason = reasons[-1] if reasons else f"it {children.how_it_ended(code)}"
        where = f"{self._settings.model} at {self._settings.revision[:12]} from {self._settings.hf_endpoint}"
        return Ending(Exit.DOWNLOAD, f"The download of {where} failed: {reason}")

    def _completed(self) -> Path:
        if not (self.folder / _CONFIGURATION).is_file():
            raise Ending(
                Exit.DOWNLOAD, f"{self._settings.model} holds no {_CONFIGURATION}, so no model for vLLM."
            )
        # huggingface_hub's own notes of the download; vLLM needs none of them.
        shutil.rmtree(self.folder / ".cache", ignore_errors=True)
        (self.folder / _COMPLETE).touch()
        self._tell(size(self.folder))
        return self.folder
