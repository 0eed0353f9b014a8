"""Where every page lives. The apps' own urls.py name their pages."""

from django.contrib import admin
from django.urls import include, path

from panel import health

handler500 = "panel.middleware.server_error"

urlpatterns = [
    path("healthz", health.healthz, name="healthz"),
    path("readyz", health.readyz, name="readyz"),
    path("health/", health.strip, name="panel_health"),
    path("", include("panel.accounts.urls")),
    path("", include("deployments.urls")),
    path("", include("billing.urls")),
    path("", include("panel.privacy.urls")),
    path("alerts/", include("panel.alerts.urls")),
    path("evidence/", include("panel.evidence.urls")),
    path("compliance/", include("panel.registers.urls")),
    path("playground/", include("deployments.playground.urls")),
    path("admin/", admin.site.urls),
]
