"""Settings that say a network's shape, as the header of its file has them."""

from typing import Any

from viewgen.errors import ModelError, UsageError
from viewgen.settings import Settings

__all__ = ["NetworkConfig"]


class NetworkConfig(Settings):
    """Base of all networks' shapes.

    Raises:
        ModelError: an unknown name, or a value that no network of the kind can have.
    """

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except UsageError as error:
            raise ModelError(str(error)) from None
