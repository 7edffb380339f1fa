"""Contract of diagnostics; see `viewgen.testing`."""

import math
from typing import Any

import pytest

from viewgen.errors import ViewgenError
from viewgen.testing.entries import EntryContract

__all__ = ["DiagnosticContract"]


class DiagnosticContract(EntryContract):
    """Contract of a diagnostic; subclasses provide the fixture `subject` with all required parts."""

    @pytest.fixture
    def subject(self) -> Any:
        """Subject of the measurement, a `viewgen.diagnostics.measure.Subject`."""
        raise NotImplementedError("give the fixture `subject`")

    @pytest.fixture
    def diagnostic(self) -> Any:
        """The diagnostic under test."""
        return self.choice.build()

    def test_it_says_what_it_needs(self, diagnostic: Any) -> None:
        from viewgen.diagnostics.measure import PARTS

        assert self.entry.needs == frozenset(diagnostic.needs) <= PARTS.keys()

    def test_measures_are_numbers_with_names_of_their_own(self, diagnostic: Any, subject: Any) -> None:
        from viewgen.diagnostics.measure import Measure

        measures = diagnostic.measure(subject, 0)
        assert measures
        assert all(isinstance(measure, Measure) for measure in measures)
        assert all(measure.name and math.isfinite(measure.value) for measure in measures)
        names = [(measure.name, measure.on, measure.group) for measure in measures]
        assert len(set(names)) == len(names)

    def test_an_interval_holds_its_value(self, diagnostic: Any, subject: Any) -> None:
        for measure in diagnostic.measure(subject, 0):
            assert (measure.low is None) == (measure.high is None)
            if measure.low is not None:
                assert measure.low <= measure.value <= measure.high

    def test_the_same_seed_gives_the_same_numbers(self, diagnostic: Any, subject: Any) -> None:
        assert diagnostic.measure(subject, 3) == diagnostic.measure(subject, 3)

    def test_a_missing_part_is_named(self, diagnostic: Any) -> None:
        from viewgen.diagnostics.measure import Subject

        if not self.entry.needs:
            pytest.skip("it needs nothing")
        with pytest.raises(ViewgenError) as caught:
            diagnostic.measure(Subject({}), 0)
        assert any(need in str(caught.value) for need in self.entry.needs)
