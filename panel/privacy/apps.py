from django.apps import AppConfig


class PrivacyConfig(AppConfig):
    name = "panel.privacy"
    label = "privacy"
    verbose_name = "Privacy"

    def ready(self) -> None:
        from panel.privacy import checks  # noqa: F401  (registers the check)
