"""The page and the documentation of the service: files of this package, and nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Awaitable, Callable
from importlib.resources import files

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import Response

STATIC = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    **{f"/{name}.js": (f"{name}.js", "text/javascript") for name in ("page", "api", "box", "copy", "grid", "theme")},
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
SWAGGER = ("swagger-ui-bundle.js", "swagger-ui.css")


def add(app: FastAPI) -> None:
    """Add the page at /, and the documentation at /docs."""
    for path, (name, kind) in STATIC.items():
        data = (files("pipeline.serve") / "static" / name).read_bytes()
        app.add_api_route(path, _file(data, kind, POLICY), methods=["GET"], include_in_schema=False)
    for name in SWAGGER:
        data = (files("fastapi_offline") / "static" / name).read_bytes()
        kind = "text/javascript" if name.endswith(".js") else "text/css"
        app.add_api_route(f"/docs/{name}", _file(data, kind, POLICY), methods=["GET"], include_in_schema=False)
    shown = get_swagger_ui_html(
        openapi_url="/openapi.json",
        title="Sightline: interface",
        swagger_js_url=f"/docs/{SWAGGER[0]}",
        swagger_css_url=f"/docs/{SWAGGER[1]}",
        swagger_favicon_url="/icon.svg",
    )
    text = bytes(shown.body)
    # The one script in it is allowed by its digest; the styles that it makes as it runs cannot be.
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(script).digest()).decode()}'"
        for script in re.findall(rb"<script>(.*?)</script>", text, re.DOTALL)
    )
    policy = POLICY.replace("script-src 'self'", f"script-src 'self' {hashes}").replace(
        "style-src 'self'", "style-src 'self' 'unsafe-inline'"
    )
    app.add_api_route("/docs", _file(text, "text/html", policy), methods=["GET"], include_in_schema=False)


def _file(data: bytes, kind: str, policy: str) -> Callable[[], Awaitable[Response]]:
    """Return a route that answers with a file."""
    tag = f'"{hashlib.sha256(data).hexdigest()[:32]}"'
    headers = {"Content-Security-Policy": policy, "ETag": tag, "Cache-Control": "no-cache"}

    async def route() -> Response:
        return Response(data, media_type=kind, headers=headers)

    return route
