from decimal import Decimal
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0006_breakdown"),
    ]

    operations = [
        migrations.CreateModel(
            name="DisplayCurrency",
            fields=[
                (
                    "id",
                    models.PositiveSmallIntegerField(
                        default=1, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("currency", models.CharField(default="EUR", max_length=3)),
                ("tried_at", models.DateTimeField(blank=True, null=True)),
                ("fetched_at", models.DateTimeField(blank=True, null=True)),
                ("fetch_error", models.CharField(blank=True, max_length=200)),
            ],
            options={
                "default_permissions": (),
                "constraints": [
                    models.CheckConstraint(condition=models.Q(("id", 1)), name="billing_one_display_currency")
                ],
            },
        ),
        migrations.CreateModel(
            name="ExchangeRate",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("currency", models.CharField(help_text="ISO 4217", max_length=3)),
                ("day", models.DateField()),
                ("units", models.DecimalField(decimal_places=6, max_digits=15)),
                ("per_usd_units", models.DecimalField(decimal_places=6, default=Decimal("1"), max_digits=15)),
                ("source", models.CharField(choices=[("ecb", "ECB"), ("hand", "by hand")], max_length=8)),
                ("recorded_at", models.DateTimeField()),
                (
                    "note",
                    models.CharField(
                        blank=True, help_text="where a rate entered by hand is from", max_length=200
                    ),
                ),
            ],
            options={
                "default_permissions": ("view", "add"),
                "indexes": [models.Index(fields=["currency", "day"], name="billing_rate_day")],
                "constraints": [
                    models.UniqueConstraint(
                        condition=models.Q(("source", "ecb")),
                        fields=("currency", "day"),
                        name="billing_rate_once",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("per_usd_units__gt", 0), ("units__gt", 0)),
                        name="billing_rate_positive",
                    ),
                ],
            },
        ),
    ]
