"""The Celery application: tasks carry ids, the truth is in rows."""

import os

from celery import Celery, signals

from panel import broker, logs

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "panel.settings")

broker.install()
app = Celery("regia")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()

# Which request and which deployment a worker's line is about.
signals.before_task_publish.connect(logs.pass_request_on)
signals.task_prerun.connect(logs.begin_task)
signals.task_postrun.connect(logs.end_task)
