"""How an attempt came up: facts that outlive its machine and its machine's log."""

from __future__ import annotations

from django.db import models

from deployments.models.instance import Instance


class Launch(models.Model):
    """One attempt's way to its first token. Each phase in seconds; None: it did not happen, or nobody told.

    Provider, tier and model stand here again so that the past launches to compare with are one indexed query.
    """

    instance = models.OneToOneField(
        Instance, on_delete=models.CASCADE, primary_key=True, related_name="launch"
    )
    provider = models.CharField(max_length=20)
    tier = models.CharField(max_length=40)
    model_key = models.CharField(max_length=40)
    began_at = models.DateTimeField()

    queue = models.FloatField(null=True, help_text="s, until the image is pulled or the container runs")
    pull = models.FloatField(null=True, help_text="s, until the container runs")
    download = models.FloatField(null=True, help_text="s; None where the weights came with the image")
    load = models.FloatField(null=True, help_text="s, until the engine answers")
    warm = models.FloatField(null=True, help_text="s, until it is ready")
    first_token = models.FloatField(null=True, help_text="s, of the first chat through its endpoint")
    total = models.FloatField(null=True, help_text="s from the launch to ready; None: it never was")

    # What its log told on the way.
    marks = models.JSONField(default=dict, help_text="phase of the image -> when it began, ISO 8601")
    starts = models.PositiveSmallIntegerField(
        default=0, help_text="how often its container was seen to start"
    )
    progress = models.CharField(max_length=300, blank=True, help_text="the last that it said of its way")
    ended = models.CharField(max_length=300, blank=True, help_text="why its container ended")
    bytes_there = models.BigIntegerField(null=True, help_text="of the weights")
    bytes_of = models.BigIntegerField(null=True)
    bytes_grown_at = models.DateTimeField(null=True, help_text="when the download last brought something")
    read_at = models.DateTimeField(null=True, help_text="when its log was last read")
    next_read_at = models.DateTimeField(null=True, help_text="None: it is over, nothing is read any more")

    class Meta:
        default_permissions = ("view",)
        indexes = [
            models.Index(fields=["provider", "tier", "-began_at"], name="deployments_launch_like"),
            models.Index(fields=["next_read_at"], name="deployments_launch_due"),
        ]

    def __str__(self) -> str:
        return f"launch of {self.instance_id}"
