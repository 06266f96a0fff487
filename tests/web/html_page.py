"""An HTML page as its elements, for tests of pages."""

from collections import Counter
from html.parser import HTMLParser


class Page(HTMLParser):
    """The elements of a page, in order, each with its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def values(self, attribute: str) -> list[str]:
        """Every value that an attribute has anywhere."""
        return [each[attribute] for _, each in self.elements if attribute in each]

    def tags(self) -> Counter[str]:
        """Count each element."""
        return Counter(tag for tag, _ in self.elements)
