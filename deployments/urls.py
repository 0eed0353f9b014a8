"""The pages of what runs. The playground has its own file."""

from django.urls import path

from deployments.views import (
    accounts,
    advice,
    compare,
    deployment,
    drill,
    exposition,
    fleet,
    incidents,
    launch,
    logs,
    metrics,
    radar,
    report,
)

urlpatterns = [
    path("", fleet.overview, name="overview"),
    path("series/", metrics.fleet_series, name="fleet_series"),
    path("launch/", launch.launch, name="launch"),
    path("compare/", compare.compare, name="compare"),
    path("deployments/", fleet.deployments, name="deployments"),
    path("deployments/<uuid:pk>/", deployment.detail, name="deployment"),
    path("deployments/<uuid:pk>/logs/", logs.logs, name="deployment_logs"),
    path("deployments/<uuid:pk>/logs/download/", logs.download, name="deployment_logs_download"),
    path("deployments/<uuid:pk>/metrics/", metrics.metrics, name="deployment_metrics"),
    path("deployments/<uuid:pk>/series/", metrics.series, name="deployment_series"),
    path("deployments/<uuid:pk>/settings/", deployment.settings, name="deployment_settings"),
    path("deployments/<uuid:pk>/drill/", drill.drill, name="deployment_drill"),
    path("deployments/<uuid:pk>/<str:action>/", deployment.act, name="deployment_action"),
    path("accounts/providers/", accounts.accounts, name="provider_accounts"),
    path("accounts/providers/add/", accounts.add, name="provider_account_add"),
    path("accounts/providers/<uuid:pk>/<str:action>/", accounts.act, name="provider_account_action"),
    path("incidents/", incidents.incidents, name="incidents"),
    path("incidents/<int:pk>/", incidents.incident, name="incident"),
    path("incidents/<int:pk>/export/", incidents.export, name="incident_export"),
    path("incidents/<int:pk>/<str:action>/", incidents.act, name="incident_action"),
    path("reliability/", report.report, name="reliability"),
    path("reliability.csv", report.report_csv, name="reliability_csv"),
    path("metrics", exposition.metrics, name="metrics"),
    path("spend/advice/", advice.advice, name="advice"),
    path("spend/advice/<uuid:pk>/<str:kind>/<str:action>/", advice.act, name="advice_action"),
    path("radar/", radar.radar, name="radar"),
    path("radar/<int:pk>/<str:action>/", radar.act, name="radar_action"),
]
