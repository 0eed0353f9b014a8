"""Notices in the admin site: read, filtered, never written. They are cleared by what raised them."""

from __future__ import annotations

from django.contrib import admin

from panel.notices.models import Notice
from panel.readonly import ReadOnlyAdmin


@admin.register(Notice)
class NoticeAdmin(ReadOnlyAdmin):
    list_display = ("title", "severity", "raised_at", "last_seen_at", "cleared_at", "key")
    list_filter = ("severity", ("cleared_at", admin.EmptyFieldListFilter), "raised_at")
    search_fields = ("title", "detail", "key")
    ordering = ("-raised_at",)
