"""The feeds' JSON is read as Python's own reader reads it."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wrm_pipeline.domain.feeds.translation import BodyError, parsed

_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(10**40), 10**40)
    | st.floats(allow_nan=False)
    | st.text(st.characters())  # half surrogate pairs as well
)
_VALUES = st.recursive(_SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)


@given(_VALUES, st.booleans(), st.sampled_from([None, 0, 2]))
def test_each_value_is_what_pythons_reader_makes_of_it(value: Any, ascii_only: bool, indent: int | None) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    assert repr(parsed(text)) == repr(json.loads(text))


_RARE = (
    *("1e400", "-0", "1E5", "5e-324", "9007199254740993.0", "18446744073709551616", "-9223372036854775809", "1" * 4300),
    *("NaN", "[-Infinity]", '{"a":1,"b":2,"a":3}', '"\\ud800"', '{"":0}', "[" * 300 + "]" * 300, "\n1 "),
)


@pytest.mark.parametrize("text", _RARE, ids=lambda text: text[:20])
def test_so_is_what_is_rare(text: str) -> None:
    assert repr(parsed(text)) == repr(json.loads(text))


@pytest.mark.parametrize(
    "text", ["[1,]", '{"a":1,}', "01", '"\t"', "1 2", "tru", "1.", "+1", "", "'a'", "1" * 4301, "[" * 100_000]
)
def test_what_is_not_json_is_refused(text: str) -> None:
    with pytest.raises(BodyError, match="The body is not JSON"):
        parsed(text)
