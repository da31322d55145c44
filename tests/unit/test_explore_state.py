"""A tab as values and as a link: round trips are exact, and what no page sends is refused in words."""

from __future__ import annotations

from dataclasses import fields, replace
from urllib.parse import quote, urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tl_knowledge.editing import METHODS
from tl_knowledge.errors import InputError
from tl_knowledge.explore.links import from_query, to_query
from tl_knowledge.explore.state import COMPONENTS, METRICS, EditRequest, ExplorerState

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30).filter(str.strip)
NUMBERS = st.integers(0, 2**31 - 1)
PAIRS = st.lists(st.tuples(NUMBERS, NUMBERS), max_size=4, unique=True).map(tuple)
RANGES = st.none() | st.tuples(st.integers(0, 100), st.integers(1, 100)).map(lambda pair: (pair[0], pair[0] + pair[1]))
EDITS = st.builds(
    EditRequest,
    method=st.sampled_from(list(METHODS)),
    subject=TEXTS,
    template=st.tuples(TEXTS, TEXTS).map("{}".join),
    target_new=TEXTS,
    layers=st.lists(NUMBERS, max_size=3).map(tuple),
)
STATES = st.builds(
    ExplorerState,
    prompt=TEXTS | st.just(""),
    subject=RANGES,
    relation=RANGES,
    target=st.none() | TEXTS,
    corrupt=st.sampled_from(["subject", "relation"]),
    components=st.lists(st.sampled_from(COMPONENTS), unique=True).map(tuple),
    window=st.just("auto") | st.integers(1, 100),
    samples=st.integers(1, 200),
    seed=NUMBERS,
    metric=st.sampled_from(METRICS),
    cell=st.none() | st.tuples(st.sampled_from(COMPONENTS), NUMBERS, NUMBERS),
    suppressed=PAIRS,
    knocked_out=PAIRS,
    edits=st.lists(EDITS, max_size=3).map(tuple),
    further=st.lists(TEXTS, max_size=3).map(tuple),
    circuit=st.booleans(),
)


@settings(max_examples=150, deadline=None)
@given(STATES)
def test_a_link_says_the_state_exactly(state):
    link = to_query(state)
    assert from_query(link) == from_query(f"?{link}") == state
    assert hash(from_query(link)) == hash(state)
    assert link.isascii() and not set(link) & set(" \"'<>#")


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60) | st.lists(st.tuples(st.sampled_from([f.name for f in fields(ExplorerState)]), st.text(max_size=20))).map(urlencode))
def test_any_text_is_a_link_or_is_refused_in_words(text):
    try:
        state = from_query(text)
    except InputError as error:
        assert str(error)
    else:
        assert from_query(to_query(state)) == state


def test_a_link_has_only_what_is_not_as_usual():
    assert to_query(ExplorerState("")) == ""
    assert to_query(ExplorerState("a b", samples=3)) == "prompt=a+b&samples=3"


@pytest.mark.parametrize("name", [field.name for field in fields(ExplorerState)])
def test_every_field_of_a_state_is_in_its_link(name):
    other = ExplorerState(
        "other",
        (1, 2),
        (2, 3),
        " x",
        "relation",
        ("mlp_out",),
        2,
        3,
        4,
        "kl",
        ("mlp_out", 0, 0),
        ((0, 1),),
        ((1, 0),),
        (EditRequest("rome", "a", "{} b", " c"), EditRequest("mend", "a", "{} b", " c", (1, 2), "0123456789ab")),
        ("d",),
        True,
    )
    usual = ExplorerState("this")
    changed = replace(usual, **{name: getattr(other, name)})
    assert changed != usual
    assert from_query(to_query(changed)) == changed


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("promt=a", "the link's field 'promt' is unknown, did you mean 'prompt'"),
        ("prompt=a&prompt=b", "'prompt' 2 times"),
        ("prompt=%ff", "cannot be read"),
        ("prompt", "cannot be read"),
        ("prompt=a&subject=4", "subject '4' is not understood; an example: subject=1-4"),
        ("prompt=a&subject=4-4", "the token after the subject is 4"),
        ("prompt=a&subject=5-4", "the token after the subject is 4"),
        ("prompt=a&samples=0", "samples is 0; pass a whole number from 1"),
        ("prompt=a&samples=1e3", "samples '1e3' is not understood"),
        ("prompt=a&samples=٣", "samples '٣' is not understood"),
        ("prompt=a&seed=99999999999", "seed '99999999999' is not understood"),
        ("prompt=a&metric=P", "metric 'P' is unknown"),
        ("prompt=a&components=mlp_out,mlp_out", "one twice"),
        ("prompt=a&cell=head-1-2", "'head' is unknown"),
        ("prompt=a&cell=mlp_out", "cell 'mlp_out' is not understood"),
        ("prompt=a&window=0", "window is 0"),
        ("prompt=a&circuit=1", "the link's circuit '1' is not understood; an example: circuit=yes"),
        ("prompt=a&suppressed=1.2,1.2", "a pair twice"),
        ("prompt=a&suppressed=1", "suppressed '1' is not understood"),
        ("prompt=a&edits=[1,2]", "edits '[1,2]' is not understood"),
        ("prompt=a&edits={}", "edits '{}' is not understood"),
        ("prompt=a&edits=" + quote("[" * 5000), "is not understood"),
        ("prompt=a&edits=" + quote('["rome","a","b"," c"]'), "has no {}"),
        ("prompt=a&edits=" + quote('["rome","a","{} b"," c","x",1]'), "layer is 'x'"),
        ("prompt=a&edits=" + quote('["mend","a","{} b"," c",1,"x"]'), "editor 'x' is no fingerprint of a trained editor"),
        ("prompt=a&edits=" + quote('["rome","a","{} b"," c",true]'), "layer is True"),
        ("prompt=a&edits=" + quote('["rme","a","{} b"," c"]'), "an edit's method 'rme' is unknown, did you mean 'rome'"),
        ("prompt=a&edits=" + quote(f'["{"m" * 9000}","a","{{}} b"," c"]'), "an edit's method 'mmm"),
        ("prompt=a&target=", "the target is '', which is empty"),
        ("prompt=a&further=+", "a further prompt is ' ', which is empty"),
        ("prompt=" + "a" * 20_001, "the prompt has 20001 characters"),
        ("prompt=" + "a" * 600_000, "the link has 600007 characters"),
        ("&".join(["further=a"] * 21), "21 further prompts were given; pass at most 20"),
        ("&".join(["further=a"] * 65), "cannot be read"),
    ],
)
def test_a_link_is_taken_whole_or_refused(query, words):
    with pytest.raises(InputError) as refusal:
        from_query(query)
    assert words in str(refusal.value)
    assert len(str(refusal.value)) < 400


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prompt": "\ud800"}, "half a character"),
        ({"prompt": 3}, "pass text"),
        ({"suppressed": [(0, 1)]}, "pass a tuple"),
        ({"suppressed": ((0, -1),)}, "from 0"),
        ({"suppressed": ((0, 1, 2),)}, "pairs of layer and number"),
        ({"suppressed": tuple((0, i) for i in range(501))}, "501 suppressed were given; pass at most 500"),
        ({"knocked_out": ((True, 1),)}, "a whole number"),
        ({"subject": (1,)}, "no range of tokens"),
        ({"edits": ("rome",)}, "no EditRequest"),
        ({"cell": "abc"}, "no cell"),
        ({"further": ("a" * 15_000,) * 3}, "the tab's texts have 45001 characters together; at most 40000"),
    ],
)
def test_values_that_no_page_sends_are_refused(change, words, without_type_checks):
    with pytest.raises(InputError) as refusal:
        ExplorerState(**({"prompt": "a"} | change))
    assert words in str(refusal.value)


def test_ten_thousand_characters_fit_into_a_state_and_a_link():
    state = ExplorerState("<script>alert(1)</script> $x^2$ %{y} =cmd() " * 250)
    assert len(state.prompt) > 10_000
    assert from_query(to_query(state)) == state


LONG = st.sampled_from(["a", "\N{GRINNING FACE}", '"', "\\", "\x00", "\u2028", "{}", "é"]).map(lambda text: "x" + text * (9_000 // len(text)))


@settings(max_examples=25, deadline=None)
@given(LONG, LONG, LONG, LONG)
def test_the_longest_texts_fit_into_a_link(prompt, target, further, subject):
    edit = EditRequest("rome", subject[:4_000], "{}", " x", tuple([2**31 - 1] * 500))
    most = tuple((2**31 - 1 - number, 2**31 - 1) for number in range(500))
    state = ExplorerState(prompt, target=target, further=(further,), edits=(edit,) * 2, suppressed=most, knocked_out=most)
    assert from_query(to_query(state)) == state


def test_twenty_thousand_emoji_and_all_numbers_fit_into_a_link():
    numbers, most = tuple([2**31 - 1] * 500), tuple((2**31 - 1 - number, 2**31 - 1) for number in range(500))
    edits = tuple(EditRequest("rome", "\x00" * 10 + "a", "{}", " x", numbers) for _ in range(8))
    emoji = "\N{GRINNING FACE}"
    state = ExplorerState(emoji * 20_000, further=(emoji * 19_800,), edits=edits, suppressed=most, knocked_out=most)
    assert from_query(to_query(state)) == state
