from django.apps import AppConfig


class DeploymentsConfig(AppConfig):
    name = "deployments"
    label = "deployments"

    def ready(self) -> None:
        from billing import above
        from billing.views import machine
        from deployments import runway
        from deployments.monitoring import rounds, telling, watch
        from deployments.views import costs
        from panel import health
        from panel.notices import notify

        rounds.watch()
        health.add_source(watch.problems)
        machine.add_source(costs.of_machine)
        notify.acknowledged.connect(telling.on_acknowledged, dispatch_uid="incidents")
        above.tell(targets=runway.targets, runways=runway.runways)
