"""Roles of an image's views, for sources whose views are images of different kinds."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from viewgen.errors import UsageError

__all__ = ["Role"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Role:
    """The role of one of an image's views, such as ``"luma"``.

    Attributes:
        name: name of the role, a word; also the name of its encoder.
        channels: channels of the view that belong to the role, ascending; empty for all.
        signed: True if mid-grey stands for zero, and pictures of the view are stretched around it.
    """

    name: str
    channels: tuple[int, ...] = ()
    signed: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "channels", tuple(self.channels))
        if not self.name.isidentifier():
            raise UsageError(f"{self.name!r} cannot be the name of a role; expected a word")
        if any(index < 0 for index in self.channels) or sorted(set(self.channels)) != [*self.channels]:
            raise UsageError(
                f"role {self.name!r} has channels {self.channels}; expected different ones, ascending from 0"
            )

    def num_channels(self, channels: int) -> int:
        """Return the number of channels of the role's views, out of `channels` of an image.

        Raises:
            UsageError: an image has too few.
        """
        if self.channels and self.channels[-1] >= channels:
            raise UsageError(
                f"role {self.name!r} has channel {self.channels[-1]} (counted from 0) of images with "
                f"{channels}"
            )
        return len(self.channels) or channels

    def of(self, views: Any) -> Any:
        """Return the role's channels of views `(..., C, H, W)`."""
        return views[..., list(self.channels), :, :] if self.channels else views

    def to_json(self) -> dict[str, Any]:
        """Return the role as a JSON object; `from_json` is its inverse."""
        signed = {"signed": True} if self.signed else {}
        return {"name": self.name, "channels": [*self.channels], **signed}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Role":
        """Return the role from the result of `to_json`."""
        return cls(
            name=document["name"], channels=tuple(document["channels"]), signed=document.get("signed", False)
        )
