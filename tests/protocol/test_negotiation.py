"""The negotiation, from the side of the filter and from the side of the MTA."""

from __future__ import annotations

import pytest

from pmilter.errors import NegotiationError
from pmilter.protocol.constants import Action, MacroStage, Step
from pmilter.protocol.messages import Options
from pmilter.protocol.negotiation import (
    Wish,
    check_answer,
    choose,
    clip,
    max_payload,
    offer,
    wanted_steps,
)

ALL_STAGES = frozenset(
    ["connect", "helo", "envfrom", "envrcpt", "data", "unknown", "header", "eoh", "body"]
)


# --- the filter chooses ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offered", "answered"), [(2, 2), (3, 3), (4, 4), (5, 5), (6, 6), (7, 6), (0xFFFFFFFF, 6)]
)
def test_lower_version_is_chosen(offered: int, answered: int) -> None:
    assert choose(Options(offered, 0x1FF, 0x1FFFFF), Wish()).version == answered


@pytest.mark.parametrize("version", [0, 1])
def test_version_1_is_refused(version: int) -> None:
    offered = Options(version, 0xF, 0x3F)
    with pytest.raises(NegotiationError, match=f"version {version}") as caught:
        choose(offered, Wish())
    assert caught.value.offered == offered


def test_stages_that_are_not_wanted_are_switched_off() -> None:
    answer = choose(offer(6), Wish(stages=frozenset({"connect", "helo", "envfrom", "body", "eom"})))
    assert answer == Options(6, 0, 0x08 | 0x20 | 0x40 | 0x100 | 0x200)


def test_everything_is_switched_off_for_a_filter_without_stages() -> None:
    assert choose(offer(6), Wish()).steps == 0x37F


def test_everything_wanted_switches_nothing_off() -> None:
    assert choose(offer(6), Wish(ALL_STAGES)).steps == 0


def test_quiet_stages_get_the_bit_for_no_reply() -> None:
    answer = choose(offer(6), Wish(ALL_STAGES, quiet=ALL_STAGES))
    assert answer.steps == 0x000FF080


def test_quiet_stage_that_is_not_wanted_is_only_switched_off() -> None:
    wish = Wish(ALL_STAGES - {"helo"}, quiet=frozenset({"helo"}))
    assert choose(offer(6), wish).steps == Step.NOHELO


@pytest.mark.parametrize("stage", ["eom", "abort", "close", "negotiate"])
def test_stages_without_a_bit_cannot_be_silenced_or_switched_off(stage: str) -> None:
    assert wanted_steps(Wish(ALL_STAGES | {stage}, quiet=frozenset({stage}))) == 0


def test_bits_for_no_reply_are_left_out_where_the_mta_lacks_them() -> None:
    assert choose(offer(4), Wish(ALL_STAGES, quiet=ALL_STAGES)).steps == 0


def test_steps_that_an_old_mta_does_not_know_are_not_switched_off() -> None:
    assert choose(Options(2, 0x3F, 0x7F), Wish()).steps == 0x7F


def test_actions_are_what_is_both_wanted_and_offered() -> None:
    wish = Wish(ALL_STAGES, actions=Action.ADDHDRS | Action.CHGFROM)
    assert choose(Options(2, 0x3F, 0x7F), wish).actions == Action.ADDHDRS


def test_abilities_are_asked_for_where_offered() -> None:
    wish = Wish(ALL_STAGES, abilities=Step.SKIP | Step.HDR_LEADSPC)
    assert choose(offer(6), wish).steps == Step.SKIP | Step.HDR_LEADSPC
    assert choose(offer(4), wish).steps == 0


def test_macro_lists_bring_their_grant() -> None:
    wish = Wish(ALL_STAGES, symlists=((MacroStage.CONNECT, b"j _"), (MacroStage.EOM, b"i")))
    answer = choose(offer(6), wish)
    assert answer.actions == Action.SETSYMLIST
    assert answer.symlists == {0: b"j _", 5: b"i"}


def test_macro_lists_are_left_out_where_they_are_not_offered() -> None:
    answer = choose(
        Options(6, 0xFF, 0x1FFFFF), Wish(ALL_STAGES, symlists=((MacroStage.EOM, b"i"),))
    )
    assert answer == Options(6, 0, 0)


@pytest.mark.parametrize("bits", [0x10000000, 0x20000000, 0x30000000])
def test_larger_frames_are_never_agreed_to(bits: int) -> None:
    wish = Wish(ALL_STAGES, abilities=Step(bits))
    assert choose(Options(6, 0x1FF, 0x1FFFFF | bits), wish).steps == 0


def test_bits_from_the_future_are_left_alone() -> None:
    answer = choose(Options(9, 0xFFFFFFFF, 0xFFFFFFFF), Wish())
    assert answer == Options(6, 0, 0x37F)


# --- an answer of the user's own -------------------------------------------------------------------------------------


def test_clipped_answer_has_no_bit_that_was_not_offered() -> None:
    answer = clip(Options(6, 0xFFFFFFFF, 0xFFFFFFFF), Options(4, 0x3F, 0x37F))
    assert answer == Options(4, 0x3F, 0x37F)


def test_clipped_answer_loses_macro_lists_without_their_grant() -> None:
    lists = {0: b"j"}
    assert clip(Options(6, 0x100, 0, lists), Options(6, 0xFF, 0)).symlists == {}
    assert clip(Options(6, 0, 0, lists), Options(6, 0x1FF, 0)).symlists == {}
    assert clip(Options(6, 0x100, 0, lists), Options(6, 0x1FF, 0)).symlists == lists


@pytest.mark.parametrize(
    ("answered", "offered", "clipped"), [(6, 4, 4), (2, 6, 2), (0, 6, 2), (9, 9, 6), (3, 6, 3)]
)
def test_clipped_version_is_one_that_was_offered_and_is_spoken(
    answered: int, offered: int, clipped: int
) -> None:
    assert clip(Options(answered, 0, 0), Options(offered, 0, 0)).version == clipped


def test_good_answer_is_not_changed_by_clipping() -> None:
    answer = Options(6, 0x101, 0x400, {0: b"j"})
    assert clip(answer, offer(6)) == answer


# --- the MTA offers and checks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "steps"), [(2, 0x7F), (3, 0x17F), (4, 0x37F), (5, 0x37F), (6, 0x1FFFFF)]
)
def test_offers_are_those_of_postfix(version: int, steps: int) -> None:
    assert offer(version) == Options(version, 0x1FF, steps)


def test_offer_is_the_newest_by_default() -> None:
    assert offer() == Options(6, 0x1FF, 0x1FFFFF)


def test_good_answer_is_the_agreement() -> None:
    answer = Options(6, 0x11, 0x100, {0: b"j"})
    assert check_answer(offer(), answer) == answer


@pytest.mark.parametrize(("version", "implied"), [(2, 0x300), (3, 0x200), (4, 0), (5, 0), (6, 0)])
def test_old_version_switches_off_what_it_does_not_know(version: int, implied: int) -> None:
    assert check_answer(offer(), Options(version, 1, 0x52)).steps == 0x52 | implied


@pytest.mark.parametrize(("offered", "answered"), [(6, 0), (6, 1), (6, 7), (4, 6), (2, 3)])
def test_version_that_was_not_offered_is_refused(offered: int, answered: int) -> None:
    with pytest.raises(NegotiationError, match=f"version {answered}") as caught:
        check_answer(offer(offered), Options(answered, 0, 0))
    assert caught.value.offered == offer(offered)
    assert caught.value.answered == Options(answered, 0, 0)


def accepts(offered: Options, answer: Options, *, strict: bool = True) -> bool:
    try:
        check_answer(offered, answer, strict=strict)
    except NegotiationError:
        return False
    return True


BITS = [1 << place for place in range(32)]


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("offered", [Options(6, 0x3F, 0), offer()])
def test_every_action_that_was_not_offered_is_refused(offered: Options, strict: bool) -> None:
    accepted = {bit for bit in BITS if accepts(offered, Options(6, bit, 0), strict=strict)}
    assert accepted == {bit for bit in BITS if offered.actions & bit}


@pytest.mark.parametrize("offered", [Options(6, 0, 0x7F), offer()])
def test_every_step_that_was_not_offered_is_refused(offered: Options) -> None:
    accepted = {bit for bit in BITS if accepts(offered, Options(6, 0, bit))}
    assert accepted == {bit for bit in BITS if offered.steps & bit}


def test_refusal_names_the_bits() -> None:
    with pytest.raises(NegotiationError, match="CHGFROM"):
        check_answer(Options(6, 0x3F, 0x7F), Options(6, Action.CHGFROM, 0))
    with pytest.raises(NegotiationError, match="HDR_LEADSPC"):
        check_answer(Options(6, 0x3F, 0x7F), Options(6, 0, Step.HDR_LEADSPC))


@pytest.mark.parametrize("bit", [Step.NR_HDR, Step.NOUNKNOWN, Step.SKIP])
def test_step_that_was_not_offered_is_honoured_by_a_lenient_mta(bit: Step) -> None:
    # As Postfix does. To drop the bit would be worse than to refuse it: the MTA would wait for an answer that never comes.
    agreement = check_answer(
        Options(6, 0x1FF, 0x7F), Options(6, 0, bit | Step.NOHELO), strict=False
    )
    assert agreement.steps == bit | Step.NOHELO


def test_frame_size_that_was_not_offered_has_no_effect_on_a_lenient_mta() -> None:
    agreement = check_answer(offer(), Options(6, 0, Step.MDS_1M | Step.NOHELO), strict=False)
    assert max_payload(agreement.steps) == 65535
    assert agreement.steps & 0x1FFFFF == Step.NOHELO


@pytest.mark.parametrize(
    ("bits", "size"),
    [(0, 65535), (0x1FFFFF, 65535), (0x10000000, 262143), (0x20000000, 1048575), (0x30000000, 1048575)],
)  # fmt: skip
def test_largest_payload_that_may_be_sent(bits: int, size: int) -> None:
    assert max_payload(Step(bits)) == size
