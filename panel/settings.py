"""Every setting of Regia, read from the environment once.

The data folder (`REGIA_DATA_DIR`, default `./data`) holds the database, the secret and field keys
(mode 0600, made on first start), the broker's folder, local engines and logs.
"""

from __future__ import annotations

import os
from datetime import timedelta
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any
from zoneinfo import available_timezones

import dj_database_url
from django.core.exceptions import ImproperlyConfigured
from django.utils.csp import CSP

from panel import datadir

BASE_DIR = Path(__file__).resolve().parent.parent


def env(name: str, default: str = "") -> str:
    return os.environ.get(name, default).strip()


def env_bool(name: str, *, default: bool = False) -> bool:
    value = env(name).lower()
    if value in {"", None}:
        return default
    if value in {"1", "true", "yes", "on"}:
        return True
    if value in {"0", "false", "no", "off"}:
        return False
    raise ImproperlyConfigured(f"{name} must be 1 or 0, not {value!r}.")


def env_int(name: str, default: int) -> int:
    value = env(name)
    try:
        return int(value) if value else default
    except ValueError:
        raise ImproperlyConfigured(f"{name} must be a whole number, not {value!r}.") from None


def env_list(name: str, default: str = "") -> list[str]:
    return [item.strip() for item in env(name, default).split(",") if item.strip()]


def env_networks(name: str) -> list[IPv4Network | IPv6Network]:
    try:
        return [ip_network(item, strict=False) for item in env_list(name)]
    except ValueError as e:
        raise ImproperlyConfigured(f"{name} must list addresses or networks: {e}.") from None


DEBUG = env_bool("REGIA_DEBUG")
DATA_DIR = Path(env("REGIA_DATA_DIR") or BASE_DIR / "data").expanduser().resolve()
datadir.ensure(DATA_DIR)
# Each secret may also be named by a file: REGIA_SECRET_KEY_FILE=/run/secrets/secret_key, and so on.
SECRET_KEY = datadir.given("REGIA_SECRET_KEY") or datadir.secret(DATA_DIR / "secret_key")
# Newest first: the first encrypts, all decrypt. They live outside the database on purpose.
FIELD_KEYS = datadir.given("REGIA_FIELD_KEYS").replace(",", " ").split()
# Where they are read again when they change (`panel/fields.py`); empty: they stand in the environment.
FIELD_KEYS_FILE = env("REGIA_FIELD_KEYS_FILE") or ("" if FIELD_KEYS else str(DATA_DIR / "field_keys"))
FIELD_KEYS = FIELD_KEYS or datadir.fernet_keys(DATA_DIR / "field_keys")
# Who shows it may read /metrics, and nothing else.
METRICS_TOKEN = datadir.given("REGIA_METRICS_TOKEN") or datadir.secret(DATA_DIR / "metrics_token")
if len(METRICS_TOKEN) < 16:
    raise ImproperlyConfigured("REGIA_METRICS_TOKEN must have at least 16 characters.")

ALLOWED_HOSTS = env_list("REGIA_ALLOWED_HOSTS", "127.0.0.1,localhost,[::1]")
CSRF_TRUSTED_ORIGINS = env_list("REGIA_CSRF_TRUSTED_ORIGINS")
# Behind TLS in production. Without it the panel is for this computer alone.
HTTPS = env_bool("REGIA_HTTPS")
# The reverse proxies whose X-Forwarded-For and -Proto are believed. Behind TLS there is one: on this computer, unless
# another is named. Without TLS the client is who connects.
TRUSTED_PROXIES = env_networks("REGIA_TRUSTED_PROXY") or (
    [ip_network("127.0.0.1"), ip_network("::1")] if HTTPS else []
)

INSTALLED_APPS = [
    "panel.accounts.apps.AccountsConfig",
    "panel.audit.apps.AuditConfig",
    "panel.privacy.apps.PrivacyConfig",
    "panel.evidence.apps.EvidenceConfig",
    "panel.notices.apps.NoticesConfig",
    "panel.alerts.apps.AlertsConfig",
    "panel.registers.apps.RegistersConfig",
    "panel.ui.apps.UiConfig",
    "billing.apps.BillingConfig",
    "deployments.apps.DeploymentsConfig",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "django.contrib.humanize",
    "django.forms",
    "django_htmx",
    "lucide",
    "allauth",
    "allauth.account",
    "axes",
]

MIDDLEWARE = [
    # First, so that a token stream passes through nothing that hops threads for each request.
    "deployments.playground.middleware.StreamMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "panel.middleware.BrowserLimitsMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "panel.middleware.RequestIdMiddleware",
    "django.middleware.csp.ContentSecurityPolicyMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "panel.middleware.SignInRequiredMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "allauth.account.middleware.AccountMiddleware",
    "panel.middleware.FailureMiddleware",
    "axes.middleware.AxesMiddleware",
]

ROOT_URLCONF = "panel.urls"
ASGI_APPLICATION = "panel.asgi.application"
# Token streams go through it, past Django's handler.
ASGI_DOOR = "deployments.playground.door.StreamDoor"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.template.context_processors.csp",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "panel.ui.context.shell",
                "panel.health.header",
            ],
        },
    },
]

# -- database -----------------------------------------------------------------------------------

DATABASE_URL = datadir.given("DATABASE_URL")
if DATABASE_URL:
    DATABASES = {"default": dj_database_url.parse(DATABASE_URL, conn_max_age=0)}
    if "sqlite" not in DATABASES["default"]["ENGINE"]:
        # Compiling a query of many short walks takes PostgreSQL seconds, running it takes milliseconds.
        DATABASES["default"].setdefault("OPTIONS", {}).setdefault("options", "-c jit=off")
else:
    DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": str(DATA_DIR / "regia.sqlite3")}}
if "sqlite" in DATABASES["default"]["ENGINE"]:
    # A file, so that tests can use threads and kill processes as the product does.
    DATABASES["default"]["TEST"] = {"NAME": str(DATA_DIR / "test.sqlite3")}
    DATABASES["default"]["OPTIONS"] = {
        "transaction_mode": "IMMEDIATE",
        "timeout": 20,
        # FULL: a lost intent is an unknown paid machine.
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA cache_size=-16000;",
    }
FORM_RENDERER = "panel.ui.forms.Renderer"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# -- Celery: the doorbell and the hands ----------------------------------------------------------

BROKER_DIR = DATA_DIR / "broker"
CELERY_BROKER_URL = datadir.given("CELERY_BROKER_URL") or "filesystem://"
if CELERY_BROKER_URL.startswith("filesystem://"):
    CELERY_BROKER_TRANSPORT_OPTIONS = {
        "data_folder_in": str(BROKER_DIR / "queue"),
        "data_folder_out": str(BROKER_DIR / "queue"),
        "control_folder": str(BROKER_DIR / "control"),
        # A task is acknowledged when it starts, so that nothing comes back after a kill but by its row.
        "store_processed": False,
        "polling_interval": 0.1,
    }
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_DEFAULT_QUEUE = "regia"
# Terminate has a queue and a worker process of its own: nothing may stand before giving a machine back.
CELERY_TASK_ROUTES = {"deployments.tasks.terminate_*": {"queue": "terminate"}}
CELERY_WORKER_ENABLE_REMOTE_CONTROL = False
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
# What stands in for the output has no encoding, and Vast.ai's SDK asks for it as it is imported.
CELERY_WORKER_REDIRECT_STDOUTS = False
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_TASK_PUBLISH_RETRY = False
CELERY_BEAT_SCHEDULE_FILENAME = str(DATA_DIR / "beat-schedule")
CELERY_BEAT_MAX_LOOP_INTERVAL = 1
CELERY_BEAT_SCHEDULE = {
    # name: {task, schedule in seconds, expires so that a backlog of bells does not ring at once}
    "due": {"task": "deployments.tasks.due", "schedule": 1.0, "options": {"expires": 5}},
    "observe": {"task": "deployments.tasks.observe_due", "schedule": 1.0, "options": {"expires": 5}},
    "probe": {"task": "deployments.tasks.probe_due", "schedule": 2.0, "options": {"expires": 10}},
    "scrape": {"task": "deployments.tasks.scrape_due", "schedule": 5.0, "options": {"expires": 10}},
    "canary": {"task": "deployments.tasks.canary_due", "schedule": 10.0, "options": {"expires": 20}},
    "samples": {"task": "deployments.tasks.roll_up_samples", "schedule": 60.0, "options": {"expires": 60}},
    "purge": {"task": "deployments.tasks.purge_samples", "schedule": 600.0, "options": {"expires": 600}},
    "unit_cost": {"task": "deployments.tasks.tell_unit_cost", "schedule": 300.0, "options": {"expires": 300}},
    "incidents": {"task": "deployments.tasks.incidents_due", "schedule": 3.0, "options": {"expires": 6}},
    "lease": {"task": "deployments.tasks.lease_due", "schedule": 5.0, "options": {"expires": 10}},
    "launches": {"task": "deployments.tasks.launches_due", "schedule": 5.0, "options": {"expires": 10}},
    "offers": {"task": "deployments.tasks.offers_due", "schedule": 60.0, "options": {"expires": 60}},
    # Each reads what is ten minutes old, and tests the key whose bell was lost.
    "balances": {"task": "deployments.tasks.balances_due", "schedule": 60.0, "options": {"expires": 60}},
    "drills": {"task": "deployments.tasks.drills_due", "schedule": 5.0, "options": {"expires": 10}},
    "meter": {"task": "billing.tasks.meter", "schedule": 15.0, "options": {"expires": 60}},
    # Each account's bill is asked for once an hour, and compared when it tells something new.
    "statements": {"task": "deployments.tasks.statements_due", "schedule": 60.0, "options": {"expires": 60}},
    "reconcile": {"task": "billing.tasks.reconcile", "schedule": 300.0, "options": {"expires": 300}},
    # It asks the bank every six hours, and every hour while that fails.
    "rates": {"task": "billing.tasks.rates", "schedule": 300.0, "options": {"expires": 300}},
    "budgets": {"task": "billing.tasks.watch_budgets", "schedule": 10.0, "options": {"expires": 30}},
    "audit": {"task": "panel.audit.tasks.keep", "schedule": 60.0, "options": {"expires": 60}},
    "evidence": {"task": "panel.evidence.tasks.tick", "schedule": 60.0, "options": {"expires": 60}},
    "alerts": {"task": "panel.alerts.tasks.tick", "schedule": 2.0, "options": {"expires": 10}},
    # It purges once a day; it is asked often, so that a panel that was off at night does it in the morning.
    "privacy": {"task": "panel.privacy.tasks.daily", "schedule": 600.0, "options": {"expires": 600}},
    "clocks": {"task": "panel.registers.tasks.clocks", "schedule": 60.0, "options": {"expires": 60}},
    "register_drafts": {
        "task": "panel.registers.tasks.drafts",
        "schedule": 3600.0,
        "options": {"expires": 600},
    },
}
CELERY_TIMEZONE = "UTC"

# -- accounts ------------------------------------------------------------------------------------

AUTH_USER_MODEL = "accounts.User"
AUTHENTICATION_BACKENDS = [
    "axes.backends.AxesStandaloneBackend",
    "panel.accounts.rights.Rights",
    "django.contrib.auth.backends.ModelBackend",
    "allauth.account.auth_backends.AuthenticationBackend",
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
LOGIN_URL = "account_login"
LOGIN_REDIRECT_URL = "overview"
LOGOUT_REDIRECT_URL = "account_login"
ACCOUNT_ADAPTER = "panel.accounts.adapter.AccountAdapter"
ACCOUNT_LOGIN_METHODS = {"email"}
ACCOUNT_SIGNUP_FIELDS = ["email*", "password1*", "password2*"]
ACCOUNT_EMAIL_VERIFICATION = "none"
ACCOUNT_LOGOUT_ON_GET = False
ACCOUNT_USER_MODEL_USERNAME_FIELD = None
ACCOUNT_SESSION_REMEMBER = True
ACCOUNT_PREVENT_ENUMERATION = True
ACCOUNT_RATE_LIMITS = {
    # A bound on a flood (each try costs a password hash), wide enough for a team behind one address.
    "login": "120/m/ip",
    # django-axes counts failures by account and address. allauth's own count is by account alone or by address
    # alone: with either, one attacker locks out others.
    "login_failed": None,
}
SIGN_IN_LINK_LIFETIME = timedelta(minutes=env_int("REGIA_SIGN_IN_LINK_MINUTES", 30))

AXES_FAILURE_LIMIT = 8
AXES_COOLOFF_TIME = timedelta(minutes=15)
# The pair, not the address: one attacker must not lock out everybody behind the same proxy.
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_USERNAME_FORM_FIELD = "login"
AXES_USERNAME_CALLABLE = "panel.accounts.adapter.username_of"
# The audit holds the sign-ins; a second log of addresses is not needed, nor a way to clear attempts unaudited.
AXES_DISABLE_ACCESS_LOG = True
AXES_ENABLE_ADMIN = False
AXES_LOCKOUT_TEMPLATE = "account/locked.html"
AXES_RESET_ON_SUCCESS = True
AXES_CLIENT_IP_CALLABLE = "panel.accounts.adapter.counted_address"

# -- security ------------------------------------------------------------------------------------

SECURE_CSP = {
    "default-src": [CSP.NONE],
    "script-src": [CSP.SELF, CSP.NONCE],
    "style-src": [CSP.SELF, CSP.NONCE],
    "img-src": [CSP.SELF, "data:"],
    "font-src": [CSP.SELF],
    "connect-src": [CSP.SELF],
    "form-action": [CSP.SELF],
    "base-uri": [CSP.NONE],
    "frame-ancestors": [CSP.NONE],
    "manifest-src": [CSP.SELF],
}
SESSION_COOKIE_NAME = "regia_session"
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_AGE = 60 * 60 * 24 * 14
CSRF_COOKIE_NAME = "regia_csrf"
CSRF_COOKIE_HTTPONLY = True
CSRF_COOKIE_SAMESITE = "Lax"
CSRF_USE_SESSIONS = False
CSRF_FAILURE_VIEW = "panel.ui.views.csrf_failure"
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
SECURE_CROSS_ORIGIN_OPENER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
if HTTPS:
    SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = True
    # A browser takes these from this host alone: no neighbour under the same domain can plant one.
    SESSION_COOKIE_NAME, CSRF_COOKIE_NAME = f"__Host-{SESSION_COOKIE_NAME}", f"__Host-{CSRF_COOKIE_NAME}"
    SECURE_SSL_REDIRECT = True
    # No SECURE_PROXY_SSL_HEADER: Django would believe anybody's. The server judges who says it (`panel/processes.py`).
    SECURE_HSTS_SECONDS = 60 * 60 * 24 * 365
    SECURE_HSTS_INCLUDE_SUBDOMAINS = True
    SECURE_HSTS_PRELOAD = True
    SECURE_REDIRECT_EXEMPT = [r"^healthz$", r"^readyz$"]
DATA_UPLOAD_MAX_MEMORY_SIZE = 2 * 1024 * 1024
# Bytes of a request that are read at all, whatever is in it (`panel/serving.py`).
REQUEST_BODY_MOST = 2 * DATA_UPLOAD_MAX_MEMORY_SIZE
# Answers that one person's playground streams at the same time, so that nobody takes all of an engine's places.
CHAT_STREAMS_EACH = env_int("REGIA_CHAT_STREAMS_EACH", 16)

# -- pages ---------------------------------------------------------------------------------------

LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_TZ = True
USE_I18N = False
STATIC_URL = "static/"
STATIC_ROOT = DATA_DIR / "static"
STATICFILES_DIRS = [BASE_DIR / "static"]
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {
        "BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"
        if DEBUG
        else "whitenoise.storage.CompressedManifestStaticFilesStorage"
    },
}
WHITENOISE_MAX_AGE = 3600
# Pages name files by their hash alone.
WHITENOISE_KEEP_ONLY_HASHED_FILES = True
MESSAGE_STORAGE = "django.contrib.messages.storage.session.SessionStorage"
# Without a backend of its own nothing is mailed, and what needs mail (a password reset) is not offered.
MAIL_CONFIGURED = bool(env("REGIA_EMAIL_BACKEND"))
MAILERS: dict[str, dict[str, Any]] = (
    {"default": {"BACKEND": env("REGIA_EMAIL_BACKEND")}} if MAIL_CONFIGURED else {}
)
if env("REGIA_EMAIL_BACKEND").endswith(".smtp.EmailBackend"):
    MAILERS["default"]["OPTIONS"] = {
        "host": env("REGIA_EMAIL_HOST", "localhost"),
        "port": env_int("REGIA_EMAIL_PORT", 0) or None,
        "username": env("REGIA_EMAIL_USER"),
        "password": datadir.given("REGIA_EMAIL_PASSWORD"),
        "use_tls": env("REGIA_EMAIL_SECURITY") == "starttls",
        "use_ssl": env("REGIA_EMAIL_SECURITY") == "tls",
        # A mail server that hangs must not hold a worker.
        "timeout": 10,
    }
if env("REGIA_EMAIL_SECURITY") not in {"", "starttls", "tls"}:
    raise ImproperlyConfigured("REGIA_EMAIL_SECURITY must be starttls or tls, or empty.")
DEFAULT_FROM_EMAIL = env("REGIA_EMAIL_FROM", "regia@localhost")
SILENCED_SYSTEM_CHECKS = [] if MAIL_CONFIGURED else ["mail.W001"]

# Where the team works: its days are those of the GDPR's periods.
OFFICE_TIME_ZONE = env("REGIA_OFFICE_TIME_ZONE", "Europe/Brussels")
if OFFICE_TIME_ZONE not in available_timezones():
    raise ImproperlyConfigured(
        f"REGIA_OFFICE_TIME_ZONE must name a time zone like Europe/Berlin, not {OFFICE_TIME_ZONE!r}."
    )

# -- what Regia does -----------------------------------------------------------------------------

RUNPOD_API_BASE_URL = env("RUNPOD_API_BASE_URL", "https://api.runpod.io")
RUNPOD_RUNTIME_BASE_URL = env("RUNPOD_RUNTIME_BASE_URL", "https://api.runpod.ai")
RUNPOD_PROXY_URL_TEMPLATE = env("RUNPOD_PROXY_URL_TEMPLATE", "https://{pod_id}-{port}.proxy.runpod.net")
RUNPOD_BALANCER_URL_TEMPLATE = env("RUNPOD_BALANCER_URL_TEMPLATE", "https://{endpoint_id}.api.runpod.ai")
VAST_API_BASE_URL = env("VAST_API_BASE_URL", "https://console.vast.ai")
ALLOW_INSECURE_ENDPOINTS = env_bool("ALLOW_INSECURE_ENDPOINTS")
# The panel's own address, for the links of alerts; without it they name no page.
PUBLIC_URL = env("REGIA_PUBLIC_URL").rstrip("/")
# Alerts may go to receivers in private networks and on this computer, also by plain HTTP.
ALERTS_ALLOW_PRIVATE = env_bool("REGIA_ALERTS_ALLOW_PRIVATE")
# Where the audit's head is noted outside the database, best where its owner cannot write; empty: in the data folder.
AUDIT_ANCHOR_FILE = env("REGIA_AUDIT_ANCHOR_FILE")
# Who is told of it by signed webhooks, and the key that signs them (else one is made in the data folder).
AUDIT_ANCHOR_URL = env("REGIA_AUDIT_ANCHOR_URL")
AUDIT_ANCHOR_KEY = env("REGIA_AUDIT_ANCHOR_KEY") or (
    datadir.signing_key(DATA_DIR / "audit_anchor_key") if AUDIT_ANCHOR_URL else ""
)
# Evidence packs lie here until they are fetched; with several hosts, a folder that all of them share.
EVIDENCE_DIR = env("REGIA_EVIDENCE_DIR")
# Who answers for the personal data here (the controller, Art. 4(7) GDPR), for the published privacy page.
CONTROLLER_NAME = env("REGIA_CONTROLLER_NAME")
CONTROLLER_CONTACT = env("REGIA_CONTROLLER_CONTACT")
# The sandbox: emulators stand for the providers, and every page says so.
SANDBOX = env_bool("REGIA_SANDBOX")
# What pods and instances run; without it nothing can be rented there. Whether its door speaks TLS itself.
INFERENCE_IMAGE = env("INFERENCE_IMAGE")
INFERENCE_IMAGE_TLS = env_bool("INFERENCE_IMAGE_TLS", default=True)
INFERENCE_DISK_GB = env_int("INFERENCE_DISK_GB", 40)
INFERENCE_PORT = env_int("INFERENCE_PORT", 8000)
# How long a machine with our image lives without this panel; 0: for ever.
INFERENCE_LEASE_SECONDS = env_int("INFERENCE_LEASE_SECONDS", 7200)
if INFERENCE_LEASE_SECONDS and not 300 <= INFERENCE_LEASE_SECONDS <= 604_800:
    raise ImproperlyConfigured("INFERENCE_LEASE_SECONDS must be 300 to 604800, or 0 for none.")
# RunPod's own serverless worker, pinned; and the discount on always-on workers, which has no public price.
RUNPOD_WORKER_IMAGE = env("RUNPOD_WORKER_IMAGE", "runpod/worker-v1-vllm:v2.25.2")
RUNPOD_ACTIVE_DISCOUNT = env("RUNPOD_ACTIVE_DISCOUNT", "0")
# RunPod's load-balancing endpoints, whose workers run INFERENCE_IMAGE: off, because no account has proved them.
RUNPOD_LOAD_BALANCER = env_bool("RUNPOD_LOAD_BALANCER")
# Traffic that a month is expected to take, GB, for the all-in price where a provider charges for it.
EXPECTED_TRAFFIC_GB = env_int("REGIA_EXPECTED_TRAFFIC_GB", 50)
# Unexplained money (the meter and a bill differ) that is told to the operators when it is two days old, whole USD.
UNEXPLAINED_ALERT_USD = env_int("REGIA_UNEXPLAINED_ALERT_USD", 5)

# The European Central Bank's exchange rates; empty: none are fetched, and an administrator enters them.
ECB_RATES_URL = os.environ.get(
    "REGIA_ECB_RATES_URL", "https://www.ecb.europa.eu/stats/eurofxref/eurofxref-daily.xml"
).strip()

# The local provider: where its engines live, and what an hour of this computer is said to cost.
LOCAL_ENGINES_DIR = DATA_DIR / "engines"
LOCAL_DEFAULT_USD_PER_HOUR = env("REGIA_LOCAL_USD_PER_HOUR", "0.05")
# A relaunch is bounded: at most this many attempts in an hour, then an alert.
MAX_ATTEMPTS_PER_HOUR = env_int("REGIA_MAX_ATTEMPTS_PER_HOUR", 4)
# An engine that sends nothing for this long, seconds, ends the answer with a clear error.
CHAT_IDLE_SECONDS = env_int("REGIA_CHAT_IDLE_SECONDS", 90)
# How often every serving engine is asked a short question, seconds; 0: never. Serverless endpoints never are.
CANARY_INTERVAL = env_int("REGIA_CANARY_INTERVAL", 300)
if CANARY_INTERVAL and not 30 <= CANARY_INTERVAL <= 86_400:
    raise ImproperlyConfigured("REGIA_CANARY_INTERVAL must be 30 to 86400, or 0 for never.")
# /readyz answers 503 once the last beat or reconcile is older than this, seconds.
READY_MAX_AGE = env_int("REGIA_READY_MAX_AGE", 60)

# -- logs ----------------------------------------------------------------------------------------

LOG_FORMAT = env("REGIA_LOG_FORMAT", "line")
if LOG_FORMAT not in {"line", "json"}:
    raise ImproperlyConfigured(f"REGIA_LOG_FORMAT must be line or json, not {LOG_FORMAT!r}.")
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "line": {
            "()": "panel.logs.Line",
            "format": "{asctime} {levelname} {name} {message}{about}",
            "style": "{",
        },
        "json": {"()": "panel.logs.Json"},
    },
    "filters": {"redact": {"()": "panel.logs.RedactLinks"}, "ids": {"()": "panel.logs.AddIds"}},
    "handlers": {
        "console": {"class": "logging.StreamHandler", "formatter": LOG_FORMAT, "filters": ["redact", "ids"]}
    },
    "root": {"handlers": ["console"], "level": env("REGIA_LOG_LEVEL", "INFO")},
    "loggers": {
        # They log URLs and bodies' sizes at INFO; nothing an operator acts on.
        "httpx": {"level": "WARNING"},
        "celery.app.trace": {"level": "WARNING"},
        "celery.beat": {"level": "WARNING"},
        "celery.worker.strategy": {"level": "WARNING"},
        "axes": {"level": "WARNING"},
    },
}
