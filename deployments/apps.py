from django.apps import AppConfig


class DeploymentsConfig(AppConfig):
    name = "deployments"
    label = "deployments"

    def ready(self) -> None:
        from billing import above
        from deployments import evidence, runway, standing
        from deployments.models import Installation
        from deployments.monitoring import rounds, samples, telling, watch
        from deployments.views import costs
        from panel import health
        from panel.audit import anchors
        from panel.notices import notify
        from panel.privacy import purging
        from panel.registers import above as registers

        rounds.watch()
        health.add_source(watch.problems)
        purging.register("samples", purging.Hand(count=samples.old, purge=samples.purge))
        notify.acknowledged.connect(telling.on_acknowledged, dispatch_uid="incidents")
        evidence.contribute()
        anchors.name_installation(Installation.own_key)
        above.tell(targets=runway.targets, runways=runway.runways, machine_url=costs.machine_url)
        registers.tell(companies=standing.companies, places=standing.places, withheld=standing.withheld)
