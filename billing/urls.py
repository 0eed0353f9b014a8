"""The pages of money."""

from django.urls import path

from billing.views import machine, spend

urlpatterns = [
    path("spend/", spend.spend, name="spend"),
    path("spend/spend.csv", spend.spend_csv, name="spend_csv"),
    path("spend/machine/<uuid:subject_id>/", machine.machine, name="spend_machine"),
]
