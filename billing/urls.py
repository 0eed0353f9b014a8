"""The pages of money."""

from django.urls import path

from billing.views import machine, reconciliation, spend

urlpatterns = [
    path("spend/", spend.spend, name="spend"),
    path("spend/spend.csv", spend.spend_csv, name="spend_csv"),
    path("spend/machine/<uuid:subject_id>/", machine.machine, name="spend_machine"),
    path("spend/reconciliation/", reconciliation.reconciliation, name="reconciliation"),
    path("spend/reconciliation/gaps.csv", reconciliation.export, name="reconciliation_csv"),
    path("spend/reconciliation/close/", reconciliation.month_close, name="month_close"),
    path("spend/reconciliation/bills/<uuid:account>/", reconciliation.ask_again, name="bill_again"),
    path("spend/reconciliation/<uuid:pk>/", reconciliation.discrepancy, name="discrepancy"),
    path("spend/reconciliation/<uuid:pk>/<slug:action>/", reconciliation.act, name="discrepancy_action"),
]
