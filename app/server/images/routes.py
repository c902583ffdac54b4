"""``/v1/images/generations`` and ``/v1/images/edits``."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from PIL import Image

from ....inference.masks import fit_mask, masked
from ....inference.model import Limner
from ....inference.resizing import nearest_size
from ..errors import APIError
from ..history import History
from ..service import Service
from .answer import DOCUMENTED
from .drawing import Work, draw
from .fields import GenerationRequest, drawing_options, edit_body
from .uploads import Edit, read_edit


def routes(service: Service, history: History) -> APIRouter:
    """The endpoints."""
    router = APIRouter()

    @router.post("/v1/images/generations", responses=DOCUMENTED)
    async def create_image(body: GenerationRequest, request: Request) -> Response:
        """Draw pictures."""
        service.check_model(body.model or service.model.name)
        messages = [history.message("user", [body.prompt])]
        return await draw(service, request, body, Work("image_generation", messages, drawing_options(body)))

    @router.post("/v1/images/edits", responses=DOCUMENTED, openapi_extra=edit_body())
    async def create_image_edit(request: Request) -> Response:
        """Draw pictures from others: one that is changed, wholly or where a mask says, or several that are put together."""
        edit = await read_edit(request, service.options.max_pictures)
        service.check_model(edit.body.model or service.model.name)
        options = drawing_options(edit.body)
        return await draw(
            service, request, edit.body, await service.in_thread(edit_work, service, history, edit, options)
        )

    return router


def edit_work(service: Service, history: History, edit: Edit, options: dict[str, Any]) -> Work:
    """What is to be drawn for an edit. Raises APIError for more pictures than the model uses, those that cannot be read, and a
    mask that does not fit."""
    model = service.model
    name = edit.images[0][0].partition(".")[0]
    if len(edit.images) > (limit := min(model.config.max_references, service.options.max_pictures)):
        raise APIError(
            f"{name}: {len(edit.images)} pictures; {model.name} draws from at most {limit}",
            param=name,
            code="invalid_value",
        )
    images = [history.load_image(source, where) for where, source in edit.images]
    kept, headers = None, {}
    asked = (options["height"], options["width"]) if "height" in options else None
    height, width = size = asked or edited_size(model, images[0])
    service.check_size(height, width)  # before anything is scaled to it
    if notes := [note for image in images if (note := model.resize_note(image, size))]:
        headers["X-Limner-Note"] = notes[0].encode("ascii", "replace").decode()
    if edit.mask is not None:
        mask = history.load_mask(edit.mask, images[0], "mask")
        try:
            kept = fit_mask(images[0], mask, size)
        except ValueError as error:
            raise APIError(f"mask: {error}", param="mask", code="invalid_image") from None
        images[0] = masked(*kept, model.config.mask_color)
        options = options | {"keep": "model"}  # the mask says what is kept
    messages = [history.message("user", [*images, edit.body.prompt])]
    return Work("image_edit", messages, options | {"height": height, "width": width}, kept, headers)


def edited_size(model: Limner, image: Image.Image) -> tuple[int, int]:
    """Height and width of the answer to an edit of a picture: its own where the model holds it, else the nearest.

    A model holds what is about as large as what it learned to draw: a picture of a quarter of that, drawn at its own size, loses
    what is in it.
    """
    areas = [height * width for height, width in (*model.config.shapes, model.config.default_size)]
    try:
        model.detokenizer.check_size(image.height, image.width)
        is_held = min(areas) / 2 <= image.height * image.width <= max(areas)
    except ValueError:
        is_held = False
    return (image.height, image.width) if is_held else nearest_size(image, model.config)
