from django.db import migrations, models


def protect(apps, schema_editor):
    """What is protected is known to billing; each subject knows the account that bills it."""
    Deployment = apps.get_model("deployments", "Deployment")
    Instance = apps.get_model("deployments", "Instance")
    Protected = apps.get_model("billing", "ProtectedScope")
    Subject = apps.get_model("billing", "Subject")
    protected = Deployment.objects.filter(protected=True).exclude(desired="terminated")
    Protected.objects.bulk_create(
        [Protected(scope=pk) for pk in protected.values_list("pk", flat=True)], ignore_conflicts=True
    )
    for pk, account, name in Instance.objects.values_list("pk", "account_id", "account__name").iterator():
        Subject.objects.filter(pk=pk, account=None).update(account=account, account_label=name)


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0004_budgets"),
        ("deployments", "0011_metering"),
    ]

    operations = [
        migrations.AlterField(
            model_name="deployment",
            name="protected",
            field=models.BooleanField(default=False, help_text="no drill and no budget ends it"),
        ),
        migrations.RunPython(protect, migrations.RunPython.noop),
    ]
