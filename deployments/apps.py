from django.apps import AppConfig


class DeploymentsConfig(AppConfig):
    name = "deployments"
    label = "deployments"

    def ready(self) -> None:
        from billing import above
        from deployments import runway
        from deployments.monitoring import rounds, watch
        from panel import health

        rounds.watch()
        health.add_source(watch.problems)
        above.tell(targets=runway.targets, runways=runway.runways)
