"""Settings of a network's shape, as stored in the header of its file."""

from typing import Any

from viewgen.errors import ModelError, UsageError
from viewgen.settings import Settings

__all__ = ["NetworkConfig"]


class NetworkConfig(Settings):
    """Base of all networks' shapes.

    Raises:
        ModelError: an unknown name, or a value that is invalid for the kind of network.
    """

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except UsageError as error:
            raise ModelError(str(error)) from None
