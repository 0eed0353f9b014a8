"""The pages of money."""

from django.urls import path

from billing.views import budgets, exports, machine, reconciliation, spend, statements

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
    path("spend/statements/", statements.statements, name="statements"),
    path("spend/statements/<str:month>/", statements.monthly, name="statement"),
    path("spend/currency/", statements.currency, name="currency"),
    path("spend/rates/", statements.rate, name="exchange_rate"),
    path("spend/export/focus.csv", exports.export_focus, name="export_focus"),
    path("spend/export/<slug:what>.csv", exports.export_csv, name="export_csv"),
    path("spend/export/<slug:what>.json", exports.export_json, name="export_json"),
    path("spend/budgets/", budgets.page, name="budgets"),
    path("spend/budgets/add/", budgets.add, name="budget_add"),
    path("spend/budgets/<int:pk>/", budgets.change, name="budget_change"),
    path("spend/budgets/<int:pk>/remove/", budgets.remove, name="budget_remove"),
    path("spend/budgets/<int:pk>/lift/", budgets.lift, name="budget_lift"),
    path("spend/budgets/<int:pk>/hold/", budgets.hold, name="budget_hold"),
]
