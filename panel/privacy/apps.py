from django.apps import AppConfig


class PrivacyConfig(AppConfig):
    name = "panel.privacy"
    label = "privacy"
    verbose_name = "Privacy"

    def ready(self) -> None:
        from panel.audit import audited
        from panel.privacy import checks, standing  # noqa: F401  (checks registers itself)
        from panel.privacy.policy import is_personal_or_secret

        audited.unsaid_by(is_personal_or_secret)
        standing.tell()
