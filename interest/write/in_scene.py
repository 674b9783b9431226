"""How prompts and statistics sentences say the scene of a partition, where scenes are kept apart. Pure."""

from __future__ import annotations

import msgspec

from interest.facts.counts import Facts
from interest.llm.protocol import Request
from interest.write.escape import Escape

LONGEST = 80  # characters of a scene's name
_in_field = Escape()


def told_scene(request: Request, facts: Facts) -> Request:
    """The request with the scene before what it tells; as it is for a partition of all scenes, or of none."""
    name = _name(facts)
    if not name:
        return request
    *earlier, last = request.messages
    content = f'All of this is from the scene "{name}".\n{last.content}'
    return msgspec.structs.replace(request, messages=(*earlier, msgspec.structs.replace(last, content=content)))


def said_of_scene(text: str, facts: Facts) -> str:
    """A text that begins with "This user", as one about the scene."""
    name = _name(facts)
    return f'In the scene "{name}", {text[:1].lower()}{text[1:]}' if name and text else text


def _name(facts: Facts) -> str:
    return _in_field(facts.scene or "", LONGEST).replace('"', "'")
