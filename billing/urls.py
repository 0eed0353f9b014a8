"""The pages of money."""

from django.urls import path

from billing.views import budgets, spend

urlpatterns = [
    path("spend/", spend.spend, name="spend"),
    path("spend/budgets/", budgets.page, name="budgets"),
    path("spend/budgets/add/", budgets.add, name="budget_add"),
    path("spend/budgets/<int:pk>/", budgets.change, name="budget_change"),
    path("spend/budgets/<int:pk>/remove/", budgets.remove, name="budget_remove"),
    path("spend/budgets/<int:pk>/lift/", budgets.lift, name="budget_lift"),
    path("spend/budgets/<int:pk>/hold/", budgets.hold, name="budget_hold"),
]
