from django.apps import AppConfig


class RegistersConfig(AppConfig):
    name = "panel.registers"
    label = "registers"
    verbose_name = "GDPR registers"
