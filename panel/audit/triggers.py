"""The triggers that make `audit_auditevent` append-only, for each database the panel runs on."""

from __future__ import annotations

_REFUSAL = "audit events are append-only"

_SQLITE = [
    f"""
    CREATE TRIGGER audit_no_{verb.lower()} BEFORE {verb} ON audit_auditevent
    BEGIN SELECT RAISE(ABORT, '{_REFUSAL}'); END
    """
    for verb in ("UPDATE", "DELETE")
]
_POSTGRESQL = [
    f"""
    CREATE FUNCTION audit_append_only() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION '{_REFUSAL}'; END $$
    """,
    """
    CREATE TRIGGER audit_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_auditevent
    FOR EACH STATEMENT EXECUTE FUNCTION audit_append_only()
    """,
]
_INSTALL = {"sqlite": _SQLITE, "postgresql": _POSTGRESQL}
_REMOVE = {
    "sqlite": ["DROP TRIGGER audit_no_update", "DROP TRIGGER audit_no_delete"],
    "postgresql": ["DROP TRIGGER audit_no_change ON audit_auditevent", "DROP FUNCTION audit_append_only()"],
}


def install(vendor: str) -> list[str]:
    """The statements that install them. Raises KeyError for a database that the panel does not run on."""
    return _INSTALL[vendor]


def remove(vendor: str) -> list[str]:
    return _REMOVE[vendor]
