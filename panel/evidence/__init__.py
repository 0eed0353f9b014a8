"""The evidence pack: one file with what an auditor asks for, of a period. Any app contributes its sections.

    def ready(self) -> None:
        from panel import evidence
        evidence.contribute("residency", "Where machines stood", rows_of_residency)

`rows_of_residency(start, end)` gives the names of its columns and an iterator of its rows, of what happened in
[start, end), in an order that stays the same. The same period and the same data must give the same rows: no "now".
"""

from panel.evidence.registry import Contribution, Section, contribute, sections

__all__ = ["Contribution", "Section", "contribute", "sections"]
