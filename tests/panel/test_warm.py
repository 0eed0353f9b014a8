"""What the first visitor would wait for."""

from django.template import engines

from panel import warm


def test_every_template_compiles_and_is_kept_for_the_first_visitor():
    warm.everything()
    (cached,) = engines["django"].engine.template_loaders
    kept = set(cached.get_template_cache) if hasattr(cached, "get_template_cache") else set()
    found = set(warm.names())
    assert {"deployments/overview.html", "billing/spend.html"} <= found <= kept


def test_what_cannot_be_made_ready_is_logged_and_ends_nothing(monkeypatch, caplog):
    monkeypatch.setattr(warm, "names", lambda: iter(["no/such/page.html"]))
    warm._warm()
    assert "could not be made ready" in caplog.text
