"""The pages of alerts."""

from django.urls import path

from panel.alerts import views

urlpatterns = [
    path("", views.alerts, name="alerts"),
    path("notices/<int:pk>/acknowledge/", views.acknowledge, name="notice_acknowledge"),
    path("channels/add/<str:kind>/", views.add_channel, name="alert_channel_add"),
    path("channels/<int:pk>/", views.channel, name="alert_channel"),
    path("channels/<int:pk>/<str:action>/", views.channel_action, name="alert_channel_action"),
    path("rules/add/", views.rule, name="alert_rule_add"),
    path("rules/<int:pk>/", views.rule, name="alert_rule"),
    path("rules/<int:pk>/delete/", views.delete_rule, name="alert_rule_delete"),
    path("windows/add/", views.add_window, name="alert_window_add"),
    path("windows/<int:pk>/end/", views.end_window, name="alert_window_end"),
    path("messages/drop/", views.drop, name="alert_messages_drop"),
    path("messages/<int:pk>/retry/", views.retry, name="alert_message_retry"),
]
