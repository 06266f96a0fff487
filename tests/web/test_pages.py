"""What goes with every page: the policy of each is strict, whatever it may load."""

import pytest

from service.web import dashboard, docs
from service.web.pages import page_headers, style_source

PAGES = {
    "none": page_headers(),
    "dashboard": dashboard.PAGE_HEADERS,
    "docs": docs.PAGE_HEADERS,
}


@pytest.mark.parametrize("headers", PAGES.values(), ids=PAGES)
def test_policies_allow_only_what_is_named(headers: dict[str, str]) -> None:
    """All is forbidden first, nothing is unsafe, and no source is another host."""
    policy = headers["Content-Security-Policy"].split("; ")

    assert policy[0] == "default-src 'none'"
    assert policy[-3:] == [
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
    sources = [source for each in policy for source in each.split()[1:]]
    known = ("'none'", "'self'", "data:", "'sha256-")
    assert all(each.startswith(known) for each in sources)
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"


def test_a_style_is_named_by_its_hash() -> None:
    """The hash is SHA-256 in base64, of the style in UTF-8, as browsers compute it."""
    empty = "style-src 'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='"

    assert style_source("") == empty
    assert style_source("é") == (
        "style-src 'sha256-SplVfkAzw1Od4utlRyAXytX5VX96BiWgnxw/biumnEw='"
    )
