import billing.fields
import billing.models.budget
import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0003_metering"),
    ]

    operations = [
        migrations.CreateModel(
            name="ProtectedScope",
            fields=[
                ("scope", models.UUIDField(primary_key=True, serialize=False)),
            ],
            options={
                "default_permissions": (),
            },
        ),
        migrations.AddField(
            model_name="budget",
            name="account",
            field=models.UUIDField(blank=True, help_text="only what this account bills", null=True),
        ),
        migrations.AddField(
            model_name="budget",
            name="blocks",
            field=models.BooleanField(default=True, help_text="refuse a launch that does not fit"),
        ),
        migrations.AddField(
            model_name="budget",
            name="lifted_reason",
            field=models.CharField(blank=True, max_length=300),
        ),
        migrations.AddField(
            model_name="budget",
            name="lifted_until",
            field=models.DateTimeField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name="budget",
            name="provider",
            field=models.CharField(blank=True, help_text="only what this provider bills", max_length=40),
        ),
        migrations.AddField(
            model_name="budget",
            name="rungs",
            field=models.JSONField(
                blank=True,
                default=billing.models.budget.usual_rungs,
                help_text="percent spent at which somebody is told",
            ),
        ),
        migrations.AddField(
            model_name="budget",
            name="scope",
            field=models.UUIDField(blank=True, help_text="only this deployment", null=True),
        ),
        migrations.AddField(
            model_name="budget",
            name="target_label",
            field=models.CharField(
                blank=True, help_text="what it is about, as it was named then", max_length=120
            ),
        ),
        migrations.AddField(
            model_name="budget",
            name="warns_of_forecast",
            field=models.BooleanField(default=True, help_text="tell when the forecast exceeds it"),
        ),
        migrations.CreateModel(
            name="BudgetCrossing",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("rung", models.CharField(help_text="the percent spent, or forecast", max_length=12)),
                ("period_start", models.DateTimeField()),
                ("usd", billing.fields.UsdField(help_text="what was spent or foreseen then", signed=True)),
                ("crossed_at", models.DateTimeField()),
                (
                    "fell_at",
                    models.DateTimeField(
                        blank=True, help_text="when it was below again, or the period ended", null=True
                    ),
                ),
                (
                    "budget",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="crossings",
                        to="billing.budget",
                    ),
                ),
            ],
            options={
                "default_permissions": ("view",),
                "constraints": [
                    models.UniqueConstraint(
                        condition=models.Q(("fell_at", None)),
                        fields=("budget", "rung", "period_start"),
                        name="billing_crossing_once",
                    )
                ],
            },
        ),
        migrations.AddField(
            model_name="reservation",
            name="kept_usd_per_hour",
            field=billing.fields.UsdField(default=0, help_text="what its disk costs on once it is stopped"),
        ),
    ]
