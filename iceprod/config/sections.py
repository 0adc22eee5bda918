"""What the sections of the settings are made of."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0, le=366 * 86400)]
Delay = Annotated[float, Field(ge=0, le=366 * 86400)]
Count = Annotated[int, Field(ge=1)]
Amount = Annotated[float, Field(ge=0)]
ServerName = Annotated[str, Field(pattern=r"^(\*\.)?[0-9A-Za-z_.:-]{1,253}$")]
HostPort = Annotated[str, Field(pattern=r"^([0-9A-Za-z_.-]+|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?$")]
Address = Annotated[str, Field(pattern=r"^$|^https?://[^\s]+$")]


class Section(BaseModel):
    """A table of the settings: nothing unknown in it, and nothing changed later."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
