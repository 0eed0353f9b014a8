"""`{% load offers %}`: what only the list of offers says."""

from __future__ import annotations

from django import template

register = template.Library()


@register.filter
def rental(hours: float) -> str:
    """ "36 h", "60 d": how long it can be rented at most, rounded down."""
    return f"{int(hours // 24)} d" if hours >= 72 else f"{int(hours)} h"
