"""The pages of money."""

from django.urls import path

from billing.views import exports, spend, statements

urlpatterns = [
    path("spend/", spend.spend, name="spend"),
    path("spend/budget/", spend.budget, name="budget"),
    path("spend/statements/", statements.statements, name="statements"),
    path("spend/statements/<str:month>/", statements.monthly, name="statement"),
    path("spend/currency/", statements.currency, name="currency"),
    path("spend/rates/", statements.rate, name="exchange_rate"),
    path("spend/export/focus.csv", exports.export_focus, name="export_focus"),
    path("spend/export/<slug:what>.csv", exports.export_csv, name="export_csv"),
    path("spend/export/<slug:what>.json", exports.export_json, name="export_json"),
]
