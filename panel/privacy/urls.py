"""The pages of privacy: the published one, everybody's own, and the administrators'."""

from django.urls import path

from panel.privacy import views

urlpatterns = [
    path("privacy/", views.privacy, name="privacy"),
    path("privacy/receipts/<uuid:pk>/", views.receipt, name="privacy_receipt"),
    path("privacy/receipts/<uuid:pk>/<str:kind>/", views.receipt_file, name="privacy_receipt_file"),
    path("privacy/retention/", views.retention, name="privacy_retention"),
    path("privacy/people/<int:pk>/export/", views.person_export, name="privacy_person_export"),
    path("privacy/people/<int:pk>/erase/", views.person_erase, name="privacy_person_erase"),
    path("account/privacy/", views.mine, name="privacy_mine"),
]
