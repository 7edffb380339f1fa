"""Contract of registry entries; see `viewgen.testing`."""

import pickle
from typing import Any, ClassVar

from viewgen.registry import Choice, Entry
from viewgen.settings import Settings

__all__ = ["EntryContract"]


class EntryContract:
    """Contract of an entry with its settings.

    Attributes:
        entry: entry under test.
        settings: settings of the test; None for the defaults.
    """

    entry: ClassVar[Any]
    settings: ClassVar[Settings | None] = None

    @property
    def choice(self) -> Choice[Any]:
        """The entry with its settings."""
        return Choice(self.entry, self.entry.settings() if self.settings is None else self.settings)

    def test_the_entry_says_what_it_is(self) -> None:
        entry = self.entry
        assert isinstance(entry, Entry)
        assert entry.name
        assert entry.summary
        assert "\n" not in entry.summary, "one line of help"

    def test_every_setting_is_described(self) -> None:
        for name, field in self.entry.settings.model_fields.items():
            assert field.description, f"{name} has no description"

    def test_settings_survive_their_record_and_a_pickle(self) -> None:
        settings = self.choice.settings
        assert isinstance(settings, self.entry.settings)
        assert self.entry.settings.from_record(settings.record()) == settings
        assert pickle.loads(pickle.dumps(settings)) == settings
