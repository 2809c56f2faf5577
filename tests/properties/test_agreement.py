"""Law: an agreement has nothing that was not offered, and negotiating it again changes nothing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pmilter.errors import NegotiationError
from pmilter.protocol.constants import Action
from pmilter.protocol.messages import Options
from pmilter.protocol.negotiation import Wish, check_answer, choose, clip, offer
from tests.properties.strategies import OPTIONS, SYMLISTS, U32, WISHES

NEAR_WORDS = U32 | st.integers(0, 0x1FF) | st.sampled_from([0x3F, 0x7F, 0x1FF, 0x37F, 0x1FFFFF])
OFFERS = st.builds(Options, st.integers(2, 9), NEAR_WORDS, NEAR_WORDS)
ANSWERS = st.builds(Options, st.integers(0, 9), NEAR_WORDS, NEAR_WORDS, SYMLISTS)
ONE_BIT = st.integers(0, 32).map(lambda place: 1 << place & 0xFFFFFFFF)

IMPLIED = {2: 0x300, 3: 0x200}
"""Step bits that an old version sets by itself: it knows neither T nor, before 3, U."""


def within(answer: Options, offered: Options) -> bool:
    """Tell whether an answer has no bit and no version that was not offered, by plain numbers."""
    actions, steps = int(answer.actions), int(answer.steps)
    return (
        actions | int(offered.actions) == int(offered.actions)
        and steps | int(offered.steps) == int(offered.steps)
        and 2 <= answer.version <= min(6, offered.version)
        and (not answer.symlists or bool(actions & 0x100))
    )


@given(OFFERS, WISHES)
def test_choice_is_within_the_offer_and_the_wish(offered: Options, wish: Wish) -> None:
    answer = choose(offered, wish)
    assert within(answer, offered)
    assert int(answer.actions) & ~int(wish.actions | Action.SETSYMLIST) == 0


@given(OFFERS, WISHES)
def test_choosing_again_from_the_agreement_changes_nothing(offered: Options, wish: Wish) -> None:
    agreed = choose(offered, wish)
    assert choose(agreed, wish) == agreed


@given(st.sampled_from([2, 3, 4, 5, 6]).map(offer), WISHES)
def test_every_mta_accepts_the_choice(offered: Options, wish: Wish) -> None:
    answer = choose(offered, wish)
    agreed = check_answer(offered, answer)
    assert int(agreed.steps) == int(answer.steps) | IMPLIED.get(answer.version, 0)
    assert agreed.replace(steps=answer.steps) == answer


@given(OFFERS, OPTIONS | ANSWERS)
def test_clipped_answer_is_within_the_offer(offered: Options, answer: Options) -> None:
    assert within(clip(answer, offered), offered)


@given(OFFERS, OPTIONS | ANSWERS)
def test_clipping_again_changes_nothing(offered: Options, answer: Options) -> None:
    clipped = clip(answer, offered)
    assert clip(clipped, offered) == clipped


@given(OFFERS, ANSWERS, ONE_BIT, ONE_BIT)
def test_strict_mta_accepts_exactly_what_is_within_its_offer(
    offered: Options, wanted: Options, action: int, step: int
) -> None:
    answer = Options(
        wanted.version,
        int(wanted.actions) & int(offered.actions) | action,
        int(wanted.steps) & int(offered.steps) | step,
    )
    if answer.version > 6:
        return  # from the future, like the offer: nothing is known of it
    try:
        agreed = check_answer(offered, answer)
    except NegotiationError:
        assert not within(answer, offered)
    else:
        assert within(answer, offered)
        assert int(agreed.steps) == int(answer.steps) | IMPLIED.get(answer.version, 0)


@given(OFFERS, ANSWERS)
def test_checking_the_agreement_again_changes_nothing(offered: Options, answer: Options) -> None:
    clipped = clip(answer, offered)
    agreed = check_answer(offered, clipped)
    assert check_answer(agreed.replace(version=offered.version), agreed) == agreed
