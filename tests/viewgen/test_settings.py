"""Settings: what is refused and how it is said, records that outlive new fields, pickles."""

import math
import pickle
from typing import Annotated, Literal

import pytest
from pydantic import Field

from viewgen.errors import CorruptDataError, UsageError
from viewgen.settings import Settings, facts, setting


class Inner(Settings):
    title = "inner"

    rate: float = setting(0.1, "rate", gt=0)
    late: int = setting(3, "a later field", since=2)


class Outer(Settings):
    title = "outer"

    count: int = setting(8, "number of things", ge=1, le=100)
    weight: float = setting(0.5, "weight", ge=0)
    kind: Literal["round", "square"] = setting("round", "shape")
    epsilon: Annotated[float, Field(gt=0, le=2)] | Literal["auto"] = setting("auto", "distance")
    on: bool = setting(True, "whether it is on")
    span: tuple[float, float] = setting((0.2, 1.0), "range")
    stages: tuple[int, ...] = setting((), "stages")
    inner: Inner = setting(Inner(), "a part")
    newer: float = setting(1.0, "a later field", since=2, flag=True)
    changed: int = setting(5, "a later field whose default has changed", since=2, absent=0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": 0}, "outer: count is 0; expected greater than or equal to 1"),
        ({"count": 101}, "count is 101; expected less than or equal to 100"),
        ({"count": 1.5}, "count is 1.5; expected a valid integer"),
        ({"count": True}, "count is True; expected a valid integer"),
        ({"count": "8"}, "count is '8'; expected a valid integer"),
        ({"weight": False}, "weight is False; expected a valid number"),
        ({"weight": math.nan}, "weight is nan; expected a finite number"),
        ({"weight": math.inf}, "weight is inf; expected a finite number"),
        ({"kind": "sqare"}, "kind is 'sqare'; did you mean 'square'?; expected 'round' or 'square'"),
        ({"epsilon": 3}, "epsilon is 3; expected less than or equal to 2 or 'auto'"),
        ({"epsilon": "atuo"}, "epsilon is 'atuo'"),
        ({"on": 1}, "on is 1; expected a valid boolean"),
        ({"span": [1]}, "span.1"),
        ({"weigth": 1}, "outer: no setting 'weigth'; did you mean 'weight'"),
        ({"inner": {"rate": 0}}, "outer: inner: rate is 0; expected greater than 0"),
        ({"inner": {"rat": 1}}, "outer: inner: no setting 'rat'; did you mean 'rate'"),
    ],
)
def test_what_cannot_be_is_refused_with_what_came_and_what_was_expected(values, message):
    with pytest.raises(UsageError) as caught:
        Outer(**values)
    assert message in str(caught.value)


def test_all_problems_are_named_at_once():
    with pytest.raises(UsageError, match=r"count is 0; .*; weight is -1; "):
        Outer(count=0, weight=-1)


def test_lists_are_tuples_and_whole_numbers_are_numbers():
    made = Outer(span=[0, 1], stages=[4, 5], weight=2, epsilon=1)
    assert (made.span, made.stages) == ((0.0, 1.0), (4, 5))
    assert (type(made.weight), type(made.epsilon)) == (float, float)
    assert Outer(stages=(4,)) == Outer(stages=[4])


def test_they_are_frozen_and_changed_by_copies_that_are_checked():
    made = Outer()
    with pytest.raises(ValueError, match="frozen"):
        made.count = 3
    assert made.replace(count=3).count == 3
    assert made.count == 8
    with pytest.raises(UsageError, match="count is 0"):
        made.replace(count=0)
    assert hash(made) == hash(Outer())


def test_pickles_and_json_survive():
    made = Outer(count=3, inner=Inner(rate=0.2), epsilon=0.5)
    assert pickle.loads(pickle.dumps(made)) == made
    assert Outer(**made.to_json()) == made


def test_a_record_has_later_fields_only_where_they_say_something_new():
    first = {"count", "weight", "kind", "epsilon", "on", "span", "stages", "inner"}
    assert Outer(changed=0).record().keys() == first
    assert Outer(changed=0).record()["inner"] == {"rate": 0.1}
    assert Outer().record().keys() == first | {"changed"}, "the default has changed since"
    assert Outer(newer=2.0, changed=0).record()["newer"] == 2.0
    for made in (Outer(), Outer(changed=0), Outer(newer=3.0, inner=Inner(late=4))):
        assert Outer.from_record(made.record()) == made


def test_a_record_of_the_first_format_is_read():
    document = Outer().record()
    del document["changed"]
    found = Outer.from_record(document)
    assert (found.newer, found.changed, found.inner.late) == (1.0, 0, 3)


@pytest.mark.parametrize("change", [{"unheard_of": 1}, {"count": 0}, {"inner": {"rate": -1}}])
def test_a_damaged_record_is_refused(change):
    with pytest.raises(CorruptDataError, match="the record is damaged, or a newer version"):
        Outer.from_record(Outer().record() | change)


def test_a_field_says_what_pydantic_does_not():
    fields = Outer.model_fields
    assert facts(fields["count"]) == {"since": 1, "flag": False, "absent": 8}
    assert facts(fields["newer"]) == {"since": 2, "flag": True, "absent": 1.0}
    assert facts(fields["changed"])["absent"] == 0


def test_the_schema_has_bounds_choices_and_descriptions():
    found = Outer.model_json_schema()["properties"]
    assert (found["count"]["minimum"], found["count"]["maximum"]) == (1, 100)
    assert found["kind"]["enum"] == ["round", "square"]
    assert all(field.get("description") for field in found.values())
