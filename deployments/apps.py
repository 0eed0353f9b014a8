from django.apps import AppConfig


class DeploymentsConfig(AppConfig):
    name = "deployments"
    label = "deployments"

    def ready(self) -> None:
        from billing import above
        from deployments import runway, standing
        from deployments.monitoring import rounds, telling, watch
        from deployments.views import costs
        from panel import health
        from panel.notices import notify
        from panel.registers import above as registers

        rounds.watch()
        health.add_source(watch.problems)
        notify.acknowledged.connect(telling.on_acknowledged, dispatch_uid="incidents")
        above.tell(targets=runway.targets, runways=runway.runways, machine_url=costs.machine_url)
        registers.tell(companies=standing.companies, places=standing.places, withheld=standing.withheld)
