"""How requests with bodies are read: sizes before contents, contents in the thread that works with them.

The models are described in the OpenAPI document by hand, since nothing is parsed before a client's rate was taken.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import HTTPException, Request
from pydantic import ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException

from pipeline.core.errors import UserError
from pipeline.core.specs import explain
from pipeline.serve.models import ImageAsk, VectorsAsk

MOST_FIELDS = 20


def _described(kind: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {kind: {"schema": schema}}}}


def _form_schema() -> dict[str, Any]:
    schema = ImageAsk.model_json_schema()
    image = {"type": "string", "format": "binary", "description": "the encoded image"}
    # A form has texts only: what may be null is left out.
    fields = {
        name: {**next((one for one in field.get("anyOf", ()) if one.get("type") != "null"), {}), **field}
        for name, field in schema["properties"].items()
    }
    for field in fields.values():
        field.pop("anyOf", None)
        if field.get("default", "") is None:
            field.pop("default")
    return {"type": "object", "required": ["image"], "properties": {"image": image, **fields}}


def _vectors_schema() -> dict[str, Any]:
    schema = VectorsAsk.model_json_schema()
    schema["properties"]["ask"] = {**schema.pop("$defs")["Ask"], "default": {}}
    return schema


FORM = _described("multipart/form-data", _form_schema())
VECTORS = _described("application/json", _vectors_schema())


class UnreadableError(UserError):
    """A body that does not fit its description."""


class TooLargeError(Exception):
    """A body that no sensible request has."""


@dataclass(frozen=True, kw_only=True)
class ImageForm:
    """An uploaded form: what is asked, and the image, which is read when its turn comes."""

    ask: ImageAsk
    data: Callable[[], bytes]


@asynccontextmanager
async def form(request: Request) -> AsyncIterator[ImageForm]:
    """Give the form of a request; HTTPException when it is none. Large parts wait on disk while the block runs."""
    try:
        fields = await request.form(max_files=1, max_fields=MOST_FIELDS)
    except (MultiPartException, ValueError) as error:
        raise HTTPException(422, f"body: is no form ({' '.join(str(error).split())[:200]})") from None
    try:
        yield _image_form(fields)
    finally:
        await fields.close()


def _image_form(fields: FormData) -> ImageForm:
    image = fields.get("image")
    if not isinstance(image, UploadFile):
        raise HTTPException(422, "image: is missing, or no file")
    # Browsers send empty texts for what was left open.
    texts = {name: value for name, value in fields.items() if name != "image" and isinstance(value, str) and value}
    try:
        return ImageForm(ask=ImageAsk.model_validate(texts), data=image.file.read)
    except ValidationError as error:
        raise HTTPException(422, explain(error)[:500]) from None


async def body(request: Request, most: int) -> bytes:
    """Return the body of a request; TooLargeError above `most` bytes."""
    data = b""
    async for part in request.stream():
        data += part
        if len(data) > most:
            raise TooLargeError(f"the vectors have more than {most} bytes as JSON; send fewer, or fewer digits")
    return data


def vectors(data: bytes) -> VectorsAsk:
    """Parse vectors; UserError names the first fault."""
    try:
        return VectorsAsk.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "body"
        raise UnreadableError(where, first["msg"]) from None
