from django.apps import AppConfig


class DeploymentsConfig(AppConfig):
    name = "deployments"
    label = "deployments"

    def ready(self) -> None:
        from deployments.monitoring import rounds, telling, watch
        from panel import health
        from panel.notices import notify

        rounds.watch()
        health.add_source(watch.problems)
        notify.acknowledged.connect(telling.on_acknowledged, dispatch_uid="incidents")
