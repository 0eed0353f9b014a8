from django.apps import AppConfig


class EvidenceConfig(AppConfig):
    name = "panel.evidence"
    label = "evidence"

    def ready(self) -> None:
        from panel.evidence import contributions

        contributions.contribute_all()
