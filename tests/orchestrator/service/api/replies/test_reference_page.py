"""The reference of the API at /docs: complete, and readable without a network or scripts."""

import re
from html.parser import HTMLParser

import pytest
from support.service import service

pytestmark = pytest.mark.anyio


class Links(HTMLParser):
    """Everything that a browser would load or follow, and the ids of a page."""

    def __init__(self):
        super().__init__()
        self.loaded, self.followed, self.ids, self.tags = [], [], [], set()

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        for name, value in attributes:
            if name == "id":
                self.ids.append(value)
            elif name == "href" and tag == "a":
                self.followed.append(value)
            elif name in {"src", "href", "srcset", "data", "action"} or name.startswith("on"):
                self.loaded.append((tag, name, value))


async def test_the_reference_has_everything_and_loads_nothing(tmp_path):
    async with service(tmp_path, local=False) as made:
        client = made.client()
        response = await client.get("/docs")
        assert response.headers["content-type"].startswith("text/html")
        document = (await client.get("/openapi.json")).json()
        page = Links()
        page.feed(response.text)
        assert page.loaded == []
        assert not page.tags & {"script", "link", "img", "iframe", "object", "form", "base"}
        policy = response.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy
        assert "url(" not in response.text and "@import" not in response.text
        assert len(set(page.ids)) == len(page.ids)
        assert {link[1:] for link in page.followed if link.startswith("#")} <= set(page.ids)
        for link in {link for link in page.followed if not link.startswith("#")}:
            assert (await client.get(f"/{link}")).status_code == 200, link
        operations = [of for path in document["paths"].values() for of in path.values()]
        assert {of["operationId"] for of in operations} | document["components"]["schemas"].keys() <= set(page.ids)
        text = re.sub(r"<[^>]+>", "", response.text)
        for operation in operations:
            assert operation["summary"] in text
            assert all(parameter["name"] in text for parameter in operation.get("parameters", ()))


async def test_the_policy_allows_exactly_the_style_of_the_page(tmp_path):
    import base64
    import hashlib

    async with service(tmp_path) as made:
        for path in ("/docs", "/problems"):
            response = await made.client().get(path, headers={"Accept": "text/html"})
            [style] = re.findall(r"<style>(.*?)</style>", response.text, re.DOTALL)
            digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
            assert f"style-src 'sha256-{digest}';" in response.headers["content-security-policy"]
            assert "style=" not in response.text


async def test_what_a_description_says_is_escaped():
    from orchestrator.service.api.replies.pages import reference_page

    operation = {
        "tags": ["<b>"], "operationId": "x", "summary": "<script>alert(1)</script>", "description": "`<i>` and <u>",
        "responses": {"200": {"description": "<img>"}},
    }  # fmt: skip
    info = {"version": "<1>", "description": "<p onclick=x>"}
    page = reference_page({"paths": {"/<a>": {"get": operation}}, "info": info, "components": {"schemas": {}}})
    assert not re.search(r"<(script|img|i|u|b|a href=\"<|p onclick)>", page)
    assert "<code>&lt;i&gt;</code>" in page


async def test_every_form_of_a_body_and_a_response_is_named(tmp_path):
    async with service(tmp_path) as made:
        text = re.sub("<[^>]+>", "", (await made.client().get("/docs")).text)
        for words in (
            "JobSpec as application/json or application/yaml",
            "object as text/event-stream",
            "string (binary) as audio/* or multipart/byteranges",
        ):
            assert words in " ".join(text.split()), words
