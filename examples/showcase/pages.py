"""Templates, forms and headers: what all pages share."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qsl

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from examples.showcase import streams
from examples.showcase.access import Person

HERE = Path(__file__).parent

templates = Environment(
    loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined,
    trim_blocks=True, lstrip_blocks=True,
)
templates.globals["streams"] = streams


def html(template: str, **values: object) -> str:
    return templates.get_template(template).render(values)


def page(request: Request, template: str, person: Person | None = None, **values: object) -> Response:
    """A whole page."""
    content = html(template, person=person, cable=request.app.state.cable, **values)
    # A page's address is somebody's key, and must not be told to other sites.
    return HTMLResponse(content, headers={"Referrer-Policy": "no-referrer"})


async def form(request: Request) -> dict[str, str]:
    """The fields of a form's body (urlencoded)."""
    return dict(parse_qsl((await request.body()).decode(), keep_blank_values=True))
