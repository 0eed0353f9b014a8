from django.urls import URLPattern, URLResolver, path

from deployments.playground import views

urlpatterns: list[URLPattern | URLResolver] = [
    path("", views.playground, name="playground"),
    path("render", views.chat_render, name="chat_render"),
    path("<uuid:pk>/", views.playground, name="playground_for"),
    path("<uuid:pk>/stream", views.chat_stream, name="chat_stream"),
]
