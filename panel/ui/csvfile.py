"""Where pages find it: `panel.csvfile`, which the rooms below the pages write with too."""

from panel.csvfile import Download, Plain, csv_response, defused, download, lines

__all__ = ["Download", "Plain", "csv_response", "defused", "download", "lines"]
