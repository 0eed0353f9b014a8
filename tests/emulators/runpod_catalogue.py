"""What RunPod rents out: GPU types with prices and stock, data centres. Prices: a snapshot of 2026-08-27."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal

LEVELS = ("NONE", "LOW", "MEDIUM", "HIGH")
SECURE, COMMUNITY, SERVERLESS = "SECURE", "COMMUNITY", "SERVERLESS"
HOURS_PER_MONTH = 730


@dataclass(frozen=True, slots=True)
class DataCenter:
    id: str
    name: str
    country: str
    region: str
    compliance: tuple[str, ...] = ()


DATA_CENTERS = {
    d.id: d
    for d in (
        DataCenter("US-TX-3", "US Texas 3", "US", "NORTH_AMERICA", ("SOC_2_TYPE_2",)),
        DataCenter("US-DE-1", "US Delaware 1", "US", "NORTH_AMERICA"),
        DataCenter("CA-MTL-1", "CA Montreal 1", "CA", "NORTH_AMERICA"),
        DataCenter("EU-RO-1", "EU Romania 1", "RO", "EUROPE", ("GDPR", "ISO_IEC_27001", "SOC_2_TYPE_2")),
        DataCenter("EU-CZ-1", "EU Czechia 1", "CZ", "EUROPE", ("GDPR", "ISO_IEC_27001")),
        DataCenter("EU-FR-1", "EU France 1", "FR", "EUROPE", ("GDPR",)),
        DataCenter("EU-NL-1", "EU Netherlands 1", "NL", "EUROPE", ("GDPR", "ISO_IEC_27001")),
        DataCenter("EU-SE-1", "EU Sweden 1", "SE", "EUROPE", ("GDPR", "ISO_IEC_27001")),
        DataCenter("EUR-IS-1", "EUR Iceland 1", "IS", "EUROPE", ("GDPR",)),
        DataCenter("EUR-NO-1", "EUR Norway 1", "NO", "EUROPE", ("GDPR",)),
        DataCenter("AP-JP-1", "AP Japan 1", "JP", "ASIA"),
        DataCenter("OC-AU-1", "OC Australia 1", "AU", "OCEANIA"),
    )
}


def country_of(data_center: str | None) -> str | None:
    found = DATA_CENTERS.get(data_center or "")
    return found.country if found else None


FLEX_USD_PER_SECOND = {
    "AMPERE_16": "0.00016", "AMPERE_24": "0.00019", "ADA_24": "0.00031", "AMPERE_48": "0.00034",
    "ADA_48_PRO": "0.00053", "AMPERE_80": "0.00076", "ADA_80_PRO": "0.00116",
}  # fmt: skip


@dataclass(slots=True)
class GpuType:
    """Prices in USD per hour and GPU, 0 where that cloud does not offer it. `stock`: cloud -> data centre -> level."""

    id: str
    name: str
    pool: str | None
    memory: int
    secure: Decimal
    community: Decimal
    stock: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def serverless(self) -> Decimal | None:
        rate = FLEX_USD_PER_SECOND.get(self.pool or "")
        return Decimal(rate) * 3600 if rate else None

    def price(self, cloud: str) -> Decimal:
        return self.secure if cloud == SECURE else self.community

    def level(self, cloud: str, data_center: str) -> str:
        return self.stock.get(cloud, {}).get(data_center, "NONE")

    def where(self, cloud: str, countries: list[str] | None = None) -> Iterator[tuple[DataCenter, str]]:
        """Data centres that offer it, with their stock."""
        for name, level in self.stock.get(cloud, {}).items():
            place = DATA_CENTERS[name]
            if level != "NONE" and (not countries or place.country in countries):
                yield place, level


_SNAPSHOT = (
    ("NVIDIA RTX A4000", "RTX A4000", "AMPERE_16", 16, ".25", ".17"),
    ("NVIDIA RTX A4500", "RTX A4500", "AMPERE_16", 20, ".25", ".19"),
    ("NVIDIA RTX A5000", "RTX A5000", "AMPERE_24", 24, ".27", ".16"),
    ("NVIDIA RTX 4000 Ada Generation", "RTX 4000 Ada", "AMPERE_16", 20, ".28", ".20"),
    ("NVIDIA GeForce RTX 3090", "RTX 3090", "AMPERE_24", 24, ".46", ".22"),
    ("NVIDIA L4", "L4", "AMPERE_24", 24, ".49", "0"),
    ("NVIDIA GeForce RTX 4090", "RTX 4090", "ADA_24", 24, ".74", ".34"),
    ("NVIDIA GeForce RTX 5090", "RTX 5090", None, 32, ".99", ".69"),
    ("NVIDIA A40", "A40", "AMPERE_48", 48, ".44", "0"),
    ("NVIDIA RTX A6000", "RTX A6000", "AMPERE_48", 48, ".53", ".33"),
    ("NVIDIA L40S", "L40S", "ADA_48_PRO", 48, ".99", ".79"),
    ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada", "ADA_48_PRO", 48, ".84", ".74"),
    ("NVIDIA A100 80GB PCIe", "A100 PCIe", "AMPERE_80", 80, "1.39", "1.19"),
    ("NVIDIA H100 80GB HBM3", "H100 SXM", "ADA_80_PRO", 80, "3.29", "2.69"),
)
# Without a wish the scheduler takes the first one with stock, and that is not in the EU.
_SECURE_PLACES = (
    "US-TX-3", "EU-RO-1", "EU-CZ-1", "EU-SE-1", "EU-NL-1", "EU-FR-1", "EUR-IS-1", "EUR-NO-1", "US-DE-1",
    "CA-MTL-1", "AP-JP-1", "OC-AU-1",
)  # fmt: skip
_COMMUNITY_PLACES = ("US-TX-3", "EU-CZ-1", "EU-FR-1", "EU-SE-1", "CA-MTL-1")


def make_catalogue() -> dict[str, GpuType]:
    """The same at every start: each type in about half of the places, with stock of every level."""
    made: dict[str, GpuType] = {}
    for n, (key, name, pool, memory, secure, community) in enumerate(_SNAPSHOT):
        gpu = GpuType(key, name, pool, memory, Decimal(secure), Decimal(community))
        for cloud, places in ((SECURE, _SECURE_PLACES), (COMMUNITY, _COMMUNITY_PLACES)):
            if gpu.price(cloud):
                gpu.stock[cloud] = _spread(n, places)
        if pool:
            gpu.stock[SERVERLESS] = dict.fromkeys(_SECURE_PLACES[:8], "MEDIUM")
        made[key] = gpu
    return made


def _spread(n: int, places: tuple[str, ...]) -> dict[str, str]:
    # EU-RO-1 and EU-CZ-1 have nearly everything, so that there is always something in the EU.
    chosen = [p for m, p in enumerate(places) if p in {"EU-RO-1", "EU-CZ-1"} or (n + m) % 2 == 0]
    return {place: LEVELS[1 + (n + m) % 3] for m, place in enumerate(chosen)}


def pool_price(catalogue: dict[str, GpuType], pools: list[str]) -> tuple[GpuType, Decimal]:
    """The first GPU type of the first known pool, and its Flex price per hour. Raises LookupError."""
    for pool in pools:
        for gpu in catalogue.values():
            if gpu.pool == pool and gpu.serverless is not None:
                return gpu, gpu.serverless
    raise LookupError(f"No pool among {pools} is known.")
