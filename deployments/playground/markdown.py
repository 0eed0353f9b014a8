"""A model's answer as HTML. The answer is untrusted: Markdown, then an allow-list, no raw HTML, no images."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from html import escape

import nh3
from markdown_it import MarkdownIt

from panel.visible import visible

LONGEST = 50_000
"""Characters; a longer answer is shown as it is."""
MOST_DRAWN = 200_000
"""Characters of all the texts of one request together."""

_TAGS = {
    "a", "blockquote", "br", "code", "del", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "li", "ol", "p", "pre",
    "s", "strong", "table", "tbody", "td", "th", "thead", "tr", "ul",
}  # fmt: skip
_ATTRIBUTES = {"a": {"href"}, "code": {"class"}, "ol": {"start"}}


def _is_web(url: str) -> bool:
    return url.lower().startswith(("http://", "https://"))


def _keep(tag: str, name: str, value: str) -> str | None:
    if name == "href":
        return value if _is_web(value) else None
    if name == "class":
        word = value.removeprefix("language-")
        return value if word != value and word.replace("-", "").replace("+", "").isalnum() else None
    # nh3 lets title and lang through on every tag; nothing here needs them.
    return value if name in ("rel", "start", "target") else None


def _reader() -> MarkdownIt:
    reader = MarkdownIt("commonmark", {"html": False, "linkify": False}).enable(["table", "strikethrough"])
    reader.disable(["image", "html_inline", "html_block"])
    reader.validateLink = _is_web  # type: ignore[method-assign]
    return reader


# Short rows of a table are padded with empty cells, 65,536 to a table: a few kilobytes of a model's answer
# would hold the process for minutes.
sys.modules["markdown_it.rules_block.table"].MAX_AUTOCOMPLETED_CELLS = 500  # type: ignore[attr-defined]
_markdown = _reader()


def render_all(texts: Sequence[str]) -> list[str]:
    """`render` for each text, until `MOST_DRAWN` characters are drawn; what is beyond is shown as it stands."""
    left, drawn = MOST_DRAWN, []
    for text in texts:
        left -= len(text)
        drawn.append(render(text) if left >= 0 else _as_it_stands(text))
    return drawn


def render(text: str) -> str:
    """Safe HTML of a model's Markdown. Links lead to http(s) only, in a new tab, telling nothing of this page."""
    if len(text) > LONGEST:
        return _as_it_stands(text)
    return nh3.clean(
        _markdown.render(visible(text)),
        tags=_TAGS,
        clean_content_tags={"script", "style"},
        attributes=_ATTRIBUTES,
        attribute_filter=_keep,
        url_schemes={"http", "https"},
        link_rel="noopener noreferrer",
        set_tag_attribute_values={"a": {"target": "_blank"}},
        strip_comments=True,
    )


def _as_it_stands(text: str) -> str:
    return f"<pre>{escape(visible(text))}</pre>"
