"""The Celery application: tasks carry ids, the truth is in rows."""

import os

from celery import Celery

from panel import broker

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "panel.settings")

broker.install()
app = Celery("regia")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
