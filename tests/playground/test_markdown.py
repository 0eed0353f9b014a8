from __future__ import annotations

from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.playground.markdown import LONGEST, MOST_DRAWN, render, render_all

ATTACKS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg/onload=alert(1)>",
    "<iframe src='javascript:alert(1)'></iframe>",
    "<a href='javascript:alert(1)'>x</a>",
    "<details open ontoggle=alert(1)>",
    "<style>*{background:url(http://evil.example/)}</style>",
    "<math><mtext></p><img src=x onerror=alert(1)>",
    "<noscript><p title='</noscript><img src=x onerror=alert(1)>'>",
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt:alert(1))",
    "[x](java\nscript:alert(1))",
    "[x](&#106;avascript:alert(1))",
    "[x](data:text/html,<script>alert(1)</script>)",
    "[x](vbscript:msgbox(1))",
    "[x](//evil.example/)",
    "[x](/deployments/stop/)",
    "[x](http:alert(1))",
    "<javascript:alert(1)>",
    "<http://a\" onmouseover=alert(1) x=\">",
    "![x](http://evil.example/beacon.png)",
    "![x](data:image/svg+xml;base64,PHN2Zy8+)",
    "[![x](http://evil.example/a.png)](http://evil.example/)",
    "[a]: javascript:alert(1)\n\n[a]",
    "[x](http://e.example/ \"onmouseover='alert(1)'\")",
    "[x](http://e.example/\"onmouseover=\"alert(1))",
    "```\"><img src=x onerror=alert(1)>\ncode\n```",
    "```js onclick=alert(1)\ncode\n```",
    "`<img src=x onerror=alert(1)>`",
    "|a|b|\n|:-|-:|\n|<script>alert(1)</script>|x|",
    "<form action=http://evil.example><button formaction=javascript:alert(1)>x",
    "<base href=http://evil.example/>",
    "<meta http-equiv=refresh content='0;url=http://evil.example'>",
    "<object data=http://evil.example/></object><embed src=x>",
    "<!--><img src=x onerror=alert(1)>-->",
    "\u202e<img src=x onerror=alert(1)>",
    "<a style=position:fixed;inset:0 href=http://evil.example>x</a>",
]  # fmt: skip

TAGS = {
    "a", "blockquote", "br", "code", "del", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "li", "ol", "p", "pre",
    "s", "strong", "table", "tbody", "td", "th", "thead", "tr", "ul",
}  # fmt: skip


class Inspector(HTMLParser):
    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in TAGS, tag
        for name, value in attrs:
            assert (tag, name) in {
                ("a", "href"),
                ("a", "rel"),
                ("a", "target"),
                ("code", "class"),
                ("ol", "start"),
            }
            if name == "href":
                assert (value or "").lower().startswith(("http://", "https://")), value
            if name == "class":
                assert (value or "").startswith("language-")
        if tag == "a" and dict(attrs).get("href"):
            assert dict(attrs)["rel"] == "noopener noreferrer"
            assert dict(attrs)["target"] == "_blank"

    handle_startendtag = handle_starttag


@pytest.mark.parametrize("attack", ATTACKS)
def test_nothing_but_the_allow_list_comes_out(attack: str) -> None:
    Inspector().feed(render(attack))
    Inspector().feed(render(f"Hello\n\n> {attack}\n\n- {attack}\n\n**{attack}**"))


@given(st.text(alphabet="<>[]()!`\"'=/:#*_|-\n abhjr&;&#x", max_size=60))
def test_nothing_but_the_allow_list_comes_out_of_any_text(text: str) -> None:
    Inspector().feed(render(text))


def test_raw_html_is_shown_and_not_obeyed() -> None:
    assert render("<b>bold</b>").strip() == "<p>&lt;b&gt;bold&lt;/b&gt;</p>"


def test_markdown_is_drawn() -> None:
    html = render(
        "# Title\n\n**bold** `code` [link](https://example.com)\n\n```python\nx = 1\n```\n\n|a|\n|-|\n|1|"
    )
    for part in (
        "<h1>",
        "<strong>bold</strong>",
        "<code>code</code>",
        'class="language-python"',
        "<td>1</td>",
    ):
        assert part in html
    assert '<a href="https://example.com" target="_blank" rel="noopener noreferrer">link</a>' in html


def test_no_picture_is_fetched_from_elsewhere() -> None:
    assert "<img" not in render("![chart](https://example.com/a.png)")


def test_a_very_long_answer_is_shown_as_it_is() -> None:
    assert render("*<b>" * LONGEST).startswith("<pre>*&lt;b&gt;")


def test_a_table_of_short_rows_is_not_padded_without_end():
    text = "|" + "a|" * 300 + "\n|" + "-|" * 300 + "\n" + "|x|\n" * 300
    assert render(text).count("<td>") < 2_000


def test_many_answers_are_drawn_up_to_a_bound():
    drawn = render_all(["*a* " * 10_000] * 8)
    assert [html.startswith("<pre>") for html in drawn] == [False] * 5 + [True] * 3
    assert MOST_DRAWN == 200_000
