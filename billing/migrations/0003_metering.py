from decimal import Decimal

from django.db import migrations, models

import billing.fields


def fill(apps, schema_editor):
    """What a charge costs stands in its row from now on."""
    charges = apps.get_model("billing", "UsageCharge").objects
    for row in charges.all().iterator():
        row.usd = (row.quantity * row.usd_per_unit).quantize(Decimal("1e-9"))
        row.save(update_fields=["usd"])


class Migration(migrations.Migration):
    dependencies = [("billing", "0002_facets")]

    operations = [
        migrations.AddField(
            model_name="usagecharge",
            name="usd",
            field=billing.fields.UsdField(default=0, help_text="quantity times price, to the nano-dollar"),
            preserve_default=False,
        ),
        migrations.AddField(
            model_name="usagecharge",
            name="estimate",
            field=models.BooleanField(default=False, help_text="nobody has told the quantity yet"),
        ),
        migrations.AddIndex(
            model_name="usagecharge",
            index=models.Index(fields=["subject", "at"], name="billing_usage_time"),
        ),
        migrations.RunPython(fill, migrations.RunPython.noop, elidable=True),
    ]
