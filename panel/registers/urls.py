"""The Compliance pages."""

from django.urls import path

from panel.registers.views import breaches, page, requests

urlpatterns = [
    path("", page.compliance, name="compliance"),
    path("drafts/", page.draft, name="compliance_draft"),
    path("breaches/add/", breaches.add, name="breach_add"),
    path("breaches/<int:pk>/", breaches.breach, name="breach"),
    path("breaches/<int:pk>/part/<str:part>/", breaches.part, name="breach_part"),
    path("breaches/<int:pk>/<str:action>/", breaches.act, name="breach_action"),
    path("requests/add/", requests.add, name="subject_request_add"),
    path("requests/<int:pk>/", requests.subject_request, name="subject_request"),
    path("requests/<int:pk>/part/<str:part>/", requests.part, name="subject_request_part"),
]
