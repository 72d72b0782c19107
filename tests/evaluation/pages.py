"""Parses a page as a browser does, to check that it is well formed and what it requests."""

from html.parser import HTMLParser

VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """Collects the parts of a page; asserts that elements are closed in order."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.ids, self.links, self.tags, self.text, self.titles = [], [], [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attributes):
        self._seen(tag, attributes)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self._seen(tag, attributes)

    def _seen(self, tag, attributes):
        self.tags.append(tag)
        for name, value in attributes:
            if name == "id":
                self.ids.append(value)
            if name in ("src", "href", "xlink:href", "action", "data", "poster", "srcset"):
                self.links.append(value)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"{tag} closes another"

    def handle_data(self, data):
        self.text.append(data)
        if self.open[-2:] == ["svg", "title"]:
            self.titles.append(data)

    def check_self_contained(self, text, told=()):
        """Asserts that the page makes no request to elsewhere, and that links within it have targets.

        `told` are addresses that the page shows as text.
        """
        assert all(link.startswith("#") for link in self.links)
        assert {link[1:] for link in self.links} <= set(self.ids)
        assert len(self.ids) == len(set(self.ids))
        assert not {"script", "link", "img", "iframe", "object"} & set(self.tags)
        for address in told:
            text = text.replace(address, "")
        for words in ("http:", "https:", "@import", "url(http", "//fonts"):
            assert words not in text
        assert len(self.titles) == self.tags.count("svg")
