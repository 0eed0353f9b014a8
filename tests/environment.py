"""Loaded before Django's settings (pytest `-p tests.environment`): tests get a data folder of their own."""

import atexit
import os
import shutil
import tempfile

# In memory where there is a memory file system: fsync is then no part of what is tested.
_folder = tempfile.mkdtemp(prefix="regia-tests-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)  # noqa: S108
os.environ["REGIA_DATA_DIR"] = _folder
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "panel.settings")
os.environ.setdefault("REGIA_LOG_LEVEL", "WARNING")
# No test asks a provider: nothing listens there, so a forgotten address fails at once.
NOWHERE = "http://127.0.0.1:9"
for _name in (
    "RUNPOD_API_BASE_URL",
    "RUNPOD_RUNTIME_BASE_URL",
    "RUNPOD_PROXY_URL_TEMPLATE",
    "RUNPOD_BALANCER_URL_TEMPLATE",
    "VAST_API_BASE_URL",
):
    os.environ[_name] = NOWHERE
# No rates are fetched.
os.environ["REGIA_ECB_RATES_URL"] = ""
os.environ.setdefault("INFERENCE_IMAGE", "registry.example.com/regia/inference:test")
# The catalogue knows no commit of it, and without one nothing is rented.
os.environ["INFERENCE_REVISION_QWEN3_4B_FP8"] = "f" * 40
atexit.register(shutil.rmtree, _folder, ignore_errors=True)
