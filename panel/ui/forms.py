"""How forms look: a label, the control, its help and its errors, tied together for a screen reader."""

from __future__ import annotations

from django.forms.renderers import TemplatesSetting


class Renderer(TemplatesSetting):
    """Django itself puts `aria-describedby` (`<id>_helptext`, `<id>_error`) and `aria-invalid` on the control."""

    form_template_name = "ui/form.html"
    field_template_name = "ui/field.html"
