"""The pages of money."""

from django.urls import path

from billing.views import spend

urlpatterns = [
    path("spend/", spend.spend, name="spend"),
    path("spend/budget/", spend.budget, name="budget"),
]
