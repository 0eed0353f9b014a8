import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("deployments", "0006_incidents"),
    ]

    operations = [
        migrations.AlterModelOptions(
            name="deployment",
            options={
                "default_permissions": ("view",),
                "permissions": [
                    ("launch_deployment", "Can launch a deployment"),
                    ("operate_deployment", "Can stop, start and terminate a deployment"),
                    ("chat_deployment", "Can chat with a deployment"),
                    ("drill_deployment", "Can have a deployment's machine killed as a drill"),
                ],
            },
        ),
        migrations.AddField(
            model_name="deployment",
            name="protected",
            field=models.BooleanField(default=False, help_text="no drill kills its machine"),
        ),
        migrations.AddField(
            model_name="heartbeat",
            name="error",
            field=models.CharField(
                blank=True, help_text="the kind of the last failure, not its words", max_length=80
            ),
        ),
        migrations.AddField(
            model_name="heartbeat",
            name="failed_at",
            field=models.DateTimeField(null=True),
        ),
        migrations.AddField(
            model_name="heartbeat",
            name="failures",
            field=models.PositiveIntegerField(default=0, help_text="in a row"),
        ),
        migrations.AddField(
            model_name="heartbeat",
            name="failures_total",
            field=models.PositiveBigIntegerField(default=0),
        ),
        migrations.CreateModel(
            name="Drill",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("actor", models.CharField(help_text="who, as the audit names them", max_length=120)),
                ("asked_at", models.DateTimeField()),
                (
                    "sent_at",
                    models.DateTimeField(
                        help_text="the guarded mark before the request that kills it", null=True
                    ),
                ),
                (
                    "killed_at",
                    models.DateTimeField(
                        help_text="just before the request: no figure is flattered", null=True
                    ),
                ),
                ("detected_at", models.DateTimeField(help_text="it left Ready", null=True)),
                ("relaunched_at", models.DateTimeField(help_text="its replacement was asked for", null=True)),
                ("ready_at", models.DateTimeField(null=True)),
                ("over_at", models.DateTimeField(null=True)),
                (
                    "usual_seconds",
                    models.FloatField(
                        help_text="the median of past launches there, from asking to Ready; none: no launch is known",
                        null=True,
                    ),
                ),
                (
                    "outcome",
                    models.CharField(
                        blank=True,
                        choices=[
                            ("ready", "Ready again"),
                            ("failed", "Not ready again"),
                            ("aborted", "Called off"),
                        ],
                        max_length=8,
                    ),
                ),
                ("detail", models.CharField(blank=True, max_length=300)),
                (
                    "deployment",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="drills",
                        to="deployments.deployment",
                    ),
                ),
                (
                    "instance",
                    models.ForeignKey(
                        help_text="the machine that is killed",
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="drills",
                        to="deployments.instance",
                    ),
                ),
                (
                    "replacement",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="+",
                        to="deployments.instance",
                    ),
                ),
            ],
            options={
                "default_permissions": (),
                "indexes": [models.Index(fields=["deployment", "-asked_at"], name="deployments_drill_of")],
                "constraints": [
                    models.UniqueConstraint(
                        condition=models.Q(("over_at", None)),
                        fields=("deployment",),
                        name="deployments_one_drill_at_a_time",
                    )
                ],
            },
        ),
    ]
