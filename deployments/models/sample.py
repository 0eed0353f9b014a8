"""What monitoring keeps of an instance over time: one wide row for each bucket of time.

`monitoring.samples` is the only door to these rows; `unit_cost` sums them up by the day, and `monitoring.profiles`
reads whole months of them beside it.
"""

from __future__ import annotations

from django.db import models

from deployments.models.instance import Instance


class Monitor(models.Model):
    """What monitoring remembers of one instance between two looks; its short number names its samples."""

    instance = models.OneToOneField(Instance, on_delete=models.CASCADE, related_name="monitor")
    next_scrape_at = models.DateTimeField(null=True)
    scraped_at = models.DateTimeField(null=True, help_text="the last /metrics that could be read")
    scrape_failures = models.PositiveIntegerField(default=0, help_text="in a row")
    scrape_detail = models.CharField(max_length=300, blank=True)
    counters = models.JSONField(
        default=dict, help_text="the engine's counters and histograms at `scraped_at`, for the next rates"
    )

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return f"monitor of {self.instance_id}"


class Sample(models.Model):
    """The values of one instance within one bucket of time; what nobody told is null.

    A column for each metric rather than a row: one row and one key hold what is read together.
    """

    pk = models.CompositePrimaryKey("monitor", "resolution", "bucket")
    monitor = models.ForeignKey(Monitor, on_delete=models.CASCADE, related_name="samples", db_index=False)
    resolution = models.PositiveSmallIntegerField(help_text="seconds in the bucket: 15, 60, 3600 or 21600")
    # A number takes a sixth of the room that a time takes in SQLite, and there are millions.
    bucket = models.BigIntegerField(help_text="its begin, seconds since 1970, UTC")

    up = models.FloatField(null=True)
    running = models.FloatField(null=True)
    waiting = models.FloatField(null=True)
    kv_use = models.FloatField(null=True)
    gpu_use = models.FloatField(null=True)
    tokens_in_rate = models.FloatField(null=True)
    tokens_out_rate = models.FloatField(null=True)
    finished_stop = models.FloatField(null=True)
    finished_length = models.FloatField(null=True)
    finished_abort = models.FloatField(null=True)
    finished_error = models.FloatField(null=True)
    ttft_p50 = models.FloatField(null=True)
    ttft_p95 = models.FloatField(null=True)
    ttft_p99 = models.FloatField(null=True)
    ttft_count = models.FloatField(null=True, help_text="how many were observed: the weight of the quantiles")
    itl_p50 = models.FloatField(null=True)
    itl_p95 = models.FloatField(null=True)
    itl_p99 = models.FloatField(null=True)
    itl_count = models.FloatField(null=True, help_text="how many were observed: the weight of the quantiles")
    canary_ttft = models.FloatField(null=True)
    canary_rate = models.FloatField(null=True)

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.monitor_id} {self.resolution} s at {self.bucket}"
