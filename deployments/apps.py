from django.apps import AppConfig


class DeploymentsConfig(AppConfig):
    name = "deployments"
    label = "deployments"

    def ready(self) -> None:
        from deployments.monitoring import rounds, watch
        from panel import health

        rounds.watch()
        health.add_source(watch.problems)
