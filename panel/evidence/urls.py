"""Where evidence packs are asked for and fetched."""

from django.urls import path

from panel.evidence import views

urlpatterns = [
    path("", views.evidence, name="evidence"),
    path("<uuid:pk>/download/", views.fetch, name="evidence_download"),
]
