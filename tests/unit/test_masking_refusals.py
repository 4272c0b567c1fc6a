"""What a member refuses in a secure aggregation, and what the coordinator does; every refusal says what to do."""

from collections.abc import Mapping

import numpy as np
import pytest
from masking_parts import HASH, Node, Play, node, nodes, plain_sum, play, terms_for
from pydantic import ValidationError

from client.node.masking import Member, advertise, confirm, mask, share, unmask
from coordinator.aggregation.secure import Answers, Confirmations, Inputs, Shares
from protocol.canonical import Document
from protocol.errors import Conflict, ContributionRefused, NotAllowed
from protocol.masking import (
    Confirmation,
    Deliveries,
    KeyAdvert,
    MaskedInput,
    MaskingTerms,
    Roster,
    SealedShares,
    Signed,
    Survivors,
    UnmaskAnswer,
    UnmaskRequest,
    pair_mask,
    private_key,
    public_half,
    reached,
    self_mask,
    two_thirds,
)

STRANGER = 200
NAMES = list(nodes(5))
UPDATES = {name: np.full(6, 0.01 * (i + 1)) for i, name in enumerate(NAMES)}
TERMS = terms_for(dict.fromkeys(NAMES, 1))


def until(stage: int, dropouts: Mapping[str, int] | None = None) -> Play:
    return play(TERMS, UPDATES, dropouts, until=stage)


def signed_keys(said: KeyAdvert, signer: Node) -> Signed[KeyAdvert]:
    return Signed[KeyAdvert](document=said, signature=signer.sign(said.canonical()))


def signed_confirmation(said: Confirmation, signer: Node) -> Signed[Confirmation]:
    return Signed[Confirmation](document=said, signature=signer.sign(said.canonical()))


def roster_with(played: Play, **changed: object) -> Roster:
    assert isinstance(played.stage, Shares)
    return played.stage.roster.model_copy(update=changed)


def replaced(roster: Roster, advert: Signed[KeyAdvert]) -> Roster:
    adverts = [advert if one.document.node_key == advert.document.node_key else one for one in roster.adverts]
    return Roster(terms=roster.terms, adverts=tuple(adverts), threshold=roster.threshold, quorum=roster.quorum)


class TestKeys:
    def test_a_node_outside_the_round_makes_no_keys(self) -> None:
        with pytest.raises(NotAllowed, match=r"not among those that may take part.*Ask the DAO why"):
            advertise(TERMS, node(STRANGER).public, node(STRANGER).sign)

    def test_a_graph_that_is_too_thin_cannot_even_be_written_down(self) -> None:
        with pytest.raises(ValidationError, match="neighbours"):
            MaskingTerms.model_validate(TERMS.model_dump() | {"neighbours": 8})

    @pytest.mark.parametrize("swapped", ["mask_key", "seal_key", "seed_sha256"])
    def test_a_coordinator_that_swaps_a_key_is_caught(self, swapped: str) -> None:
        played = until(1)
        advert = roster_with(played).adverts[0]
        changed = advert.document.model_copy(update={swapped: public_half(b"the coordinator's own secret, 32")})
        for signature in (advert.signature, node(STRANGER).sign(changed.canonical())):
            roster = replaced(roster_with(played), Signed[KeyAdvert](document=changed, signature=signature))
            other = next(name for name in NAMES if name != changed.node_key)
            with pytest.raises(NotAllowed, match=r"are not those it signed\. Leave this round and tell the DAO"):
                share(played.members[other], roster, played.nodes[other].sign)

    def test_a_coordinator_that_swaps_my_own_key_is_caught(self) -> None:
        played = until(1)
        mine = roster_with(played).adverts[0]
        name = mine.document.node_key
        second = advertise(TERMS, name, played.nodes[name].sign).answer
        with pytest.raises(NotAllowed, match="not of the terms and keys that this node takes part with"):
            share(played.members[name], replaced(roster_with(played), second), played.nodes[name].sign)

    def test_keys_of_another_round_are_no_keys_of_this_one(self) -> None:
        played = until(1)
        elsewhere = terms_for(dict.fromkeys(NAMES, 2))
        old = advertise(elsewhere, NAMES[0], played.nodes[NAMES[0]].sign).answer
        with pytest.raises(NotAllowed, match="made its keys for other terms"):
            share(played.members[NAMES[1]], replaced(roster_with(played), old), played.nodes[NAMES[1]].sign)

    def test_nodes_that_the_terms_do_not_name_are_refused(self) -> None:
        played, stranger = until(1), node(STRANGER)
        roster = roster_with(played)
        advert = signed_keys(roster.adverts[0].document.model_copy(update={"node_key": stranger.public}), stranger)
        adverts = tuple(sorted((*roster.adverts, advert), key=lambda one: one.document.node_key))
        with pytest.raises(NotAllowed, match="names a node twice, or one that is not of this round"):
            share(played.members[NAMES[0]], roster_with(played, adverts=adverts), played.nodes[NAMES[0]].sign)

    def test_two_members_are_too_few(self) -> None:
        played = until(1)
        mine = [one for one in roster_with(played).adverts if one.document.node_key in NAMES[:2]]
        with pytest.raises(NotAllowed, match=r"2 members are too few for a secret sum.*Wait until more members join"):
            share(played.members[NAMES[0]], roster_with(played, adverts=tuple(mine)), played.nodes[NAMES[0]].sign)

    @pytest.mark.parametrize("bound", ["threshold", "quorum"])
    @pytest.mark.parametrize("value", [0, 1, 2, 6])
    def test_a_threshold_or_quorum_without_majority_is_refused(self, bound: str, value: int) -> None:
        played = until(1)
        with pytest.raises(NotAllowed, match=rf"A {bound} of {value} of 5 \w+ is no majority"):
            share(played.members[NAMES[0]], roster_with(played, **{bound: value}), played.nodes[NAMES[0]].sign)

    def test_a_second_roster_is_refused_and_the_first_may_come_again(self) -> None:
        played = until(2)
        assert isinstance(played.stage, Inputs)
        member, sign, roster = played.members[NAMES[0]], played.nodes[NAMES[0]].sign, played.stage.roster
        assert share(member, roster, sign).answer.document == member.shares
        with pytest.raises(NotAllowed, match="a second roster for the same round"):
            share(member, roster.model_copy(update={"quorum": 5}), sign)

    def test_a_key_without_a_secret_is_refused(self) -> None:
        played = until(1)
        weak = roster_with(played).adverts[0].document.model_copy(update={"seal_key": "00" * 32})
        roster = replaced(roster_with(played), signed_keys(weak, played.nodes[weak.node_key]))
        other = next(name for name in NAMES if name != weak.node_key)
        with pytest.raises(NotAllowed, match="is one with which no secret can be agreed"):
            share(played.members[other], roster, played.nodes[other].sign)


class TestInput:
    def test_the_same_update_may_be_sent_again_and_another_may_not(self) -> None:
        played = until(3)
        assert isinstance(played.stage, Confirmations)
        name = NAMES[0]
        member, sign, parcel = played.members[name], played.nodes[name].sign, played.stage.inputs.deliveries(name)
        assert mask(member, parcel, UPDATES[name], sign).words == played.words[name]
        with pytest.raises(NotAllowed, match=r"A second update under the same masks would tell both\. Send the first"):
            mask(member, parcel, UPDATES[name] * 2, sign)

    def test_nothing_is_masked_with_fewer_than_were_there(self) -> None:
        played = until(3)
        assert isinstance(played.stage, Confirmations)
        name, gone = NAMES[0], NAMES[1]
        parcel = played.stage.inputs.deliveries(name)
        fewer = _without(parcel, gone)
        with pytest.raises(NotAllowed, match="asks for a second masked update with others"):
            mask(played.members[name], fewer, UPDATES[name], played.nodes[name].sign)

    def test_an_update_of_another_size_is_not_sent(self) -> None:
        played = until(2)
        assert isinstance(played.stage, Inputs)
        with pytest.raises(NotAllowed, match=r"has shape \(5,\), not \(6,\)\. Train it again"):
            mask(played.members[NAMES[0]], played.stage.deliveries(NAMES[0]), np.zeros(5), played.nodes[NAMES[0]].sign)

    def test_shares_that_were_changed_on_the_way_are_noticed(self) -> None:
        played = until(2)
        assert isinstance(played.stage, Inputs)
        name, peer = NAMES[0], NAMES[1]
        parcel = played.stage.deliveries(name)
        sealed = parcel.sealed[peer]
        for other in (sealed[:-2] + ("00" if sealed[-2:] != "00" else "01"), parcel.sealed[NAMES[2]]):
            changed = parcel.model_copy(update={"sealed": parcel.sealed | {peer: other}})
            with pytest.raises(NotAllowed, match="are not those it sealed"):
                mask(played.members[name], changed, UPDATES[name], played.nodes[name].sign)

    def test_shares_that_are_held_back_are_noticed(self) -> None:
        played = until(2)
        assert isinstance(played.stage, Inputs)
        name = NAMES[0]
        parcel = played.stage.deliveries(name)
        rest = {peer: sealed for peer, sealed in parcel.sealed.items() if peer != NAMES[1]}
        with pytest.raises(NotAllowed, match="does not hand over the shares of everyone who is present"):
            mask(
                played.members[name],
                parcel.model_copy(update={"sealed": rest}),
                UPDATES[name],
                played.nodes[name].sign,
            )

    def test_a_member_that_would_be_covered_by_too_few_sends_nothing(self) -> None:
        played = until(2)
        assert isinstance(played.stage, Inputs)
        name = NAMES[0]
        parcel = _without(_without(played.stage.deliveries(name), NAMES[1]), NAMES[2])
        with pytest.raises(NotAllowed, match=r"Only 3 holders are left where 4 are needed"):
            mask(played.members[name], parcel, UPDATES[name], played.nodes[name].sign)

    def test_people_who_are_not_in_the_round_are_not_present(self) -> None:
        played = until(2)
        assert isinstance(played.stage, Inputs)
        name = NAMES[0]
        parcel = played.stage.deliveries(name)
        more = parcel.model_copy(update={"present": tuple(sorted((*parcel.present, node(STRANGER).public)))})
        with pytest.raises(NotAllowed, match="said to be present are not members"):
            mask(played.members[name], more, UPDATES[name], played.nodes[name].sign)

    def test_nothing_is_masked_before_the_keys_were_shown(self) -> None:
        played = until(0)
        parcel = Deliveries(roster_hash=HASH, present=(), sealed={})
        with pytest.raises(NotAllowed, match="has not been shown the round's keys yet"):
            mask(played.members[NAMES[0]], parcel, UPDATES[NAMES[0]], played.nodes[NAMES[0]].sign)


class TestSurvivors:
    def test_a_sum_over_too_few_is_refused(self) -> None:
        played = until(3)
        few = _survivors(played, NAMES[:3])
        with pytest.raises(NotAllowed, match="A sum over 3 members is too small: it takes 4"):
            confirm(played.members[NAMES[0]], few, played.nodes[NAMES[0]].sign)

    def test_a_sum_without_me_is_none_of_my_business(self) -> None:
        played = until(3)
        with pytest.raises(NotAllowed, match="a sum that this node has no part in"):
            confirm(played.members[NAMES[0]], _survivors(played, NAMES[1:]), played.nodes[NAMES[0]].sign)

    def test_survivors_of_another_present_are_refused(self) -> None:
        played = until(3)
        shown = _survivors(played, NAMES).model_copy(update={"present": tuple(sorted(NAMES[:4]))})
        with pytest.raises(NotAllowed, match="a sum that this node has no part in"):
            confirm(played.members[NAMES[0]], shown, played.nodes[NAMES[0]].sign)

    def test_a_survivor_named_twice_does_not_count_twice(self) -> None:
        played = until(3)
        shown = _survivors(played, NAMES).model_copy(update={"survivors": tuple(sorted([*NAMES[:3], NAMES[0]]))})
        with pytest.raises(NotAllowed, match="survivors are not members of this round"):
            confirm(played.members[NAMES[0]], shown, played.nodes[NAMES[0]].sign)

    def test_a_second_set_of_survivors_is_refused(self) -> None:
        played = until(4)
        with pytest.raises(NotAllowed, match=r"confirmed other survivors before, and answers for one set only"):
            confirm(played.members[NAMES[0]], _survivors(played, NAMES[:4]), played.nodes[NAMES[0]].sign)

    def test_a_graph_that_falls_apart_is_refused(self) -> None:
        """On a ring of neighbours, two who drop out cut it: the sums of both halves could be told apart."""
        names = list(nodes(9))
        terms = terms_for(dict.fromkeys(names, 1), neighbours=2)
        played = play(terms, {name: np.zeros(6) for name in names}, until=3)
        assert isinstance(played.stage, Confirmations)
        near = played.stage.inputs.roster.neighbours
        start = names[0]
        cut = set(near[start])
        rest = tuple(sorted(set(names) - cut))
        assert reached(near, rest) != set(rest)
        shown = played.stage.survivors.model_copy(update={"survivors": rest})
        with pytest.raises(NotAllowed, match="fall into groups whose sums could be told apart"):
            confirm(played.members[rest[0]], shown, played.nodes[rest[0]].sign)


class TestBothShares:
    """Whoever has the self mask's seed and the mask key of one member reads its update. So nobody gives both."""

    def test_who_holds_both_secrets_reads_the_update(self) -> None:
        """The attack is real: this is what all the refusals are for."""
        played = until(3)
        assert isinstance(played.stage, Confirmations)
        name = NAMES[0]
        member, roster = played.members[name], played.stage.inputs.roster
        private = private_key(bytes.fromhex(member.key_secret))
        found = np.frombuffer(played.words[name], TERMS.word) - self_mask(roster, bytes.fromhex(member.seed), name)
        for peer in roster.neighbours[name]:
            found = found - pair_mask(roster, private, peer, name)
        assert (found.view("<i4") == TERMS.grid.whole(UPDATES[name])).all()

    def test_a_member_gives_one_share_of_each_peer_and_never_two(self) -> None:
        played = until(4, {NAMES[1]: 2})
        assert isinstance(played.stage, Answers)
        said = unmask(played.members[NAMES[0]], played.stage.request, played.nodes[NAMES[0]].sign).answer.document
        assert set(said.seeds) == set(NAMES) - {NAMES[1]}
        assert set(said.keys) == {NAMES[1]}

    def test_no_second_request_about_others_even_if_everyone_else_confirmed_it(self) -> None:
        """All others collude with the coordinator and sign a set that has one member dropped out."""
        played = until(4)
        assert isinstance(played.stage, Answers)
        member, sign = played.members[NAMES[0]], played.nodes[NAMES[0]].sign
        first = unmask(member, played.stage.request, sign)
        other = _survivors(played, NAMES[:4])
        request = UnmaskRequest(survivors=other, confirmations=_confirmed(played, other, NAMES[:4]))
        for state in (member, first.member):
            with pytest.raises(NotAllowed, match=r"asked about survivors that it did not confirm\. Leave this round"):
                unmask(state, request, sign)

    def test_two_stories_for_two_halves_open_nothing(self) -> None:
        """Some are told that everyone survived, some that one did not: neither story gets a quorum."""
        played = until(3)
        all_, less = _survivors(played, NAMES), _survivors(played, NAMES[:4])
        told = {name: less if name in NAMES[:2] else all_ for name in NAMES}
        after = {name: confirm(played.members[name], told[name], played.nodes[name].sign) for name in NAMES}
        for name in NAMES:
            mine = tuple(step.answer for step in after.values())
            request = UnmaskRequest(survivors=told[name], confirmations=mine)
            with pytest.raises(NotAllowed, match=r"Only [23] of the 4 members that it takes confirmed"):
                unmask(after[name].member, request, played.nodes[name].sign)

    def test_confirmations_are_neither_forged_nor_counted_twice(self) -> None:
        played = until(4)
        assert isinstance(played.stage, Answers)
        request, name = played.stage.request, NAMES[0]
        one = request.confirmations[0]
        twice = request.model_copy(update={"confirmations": (one,) * 5})
        with pytest.raises(NotAllowed, match="Only 1 of the 4 members"):
            unmask(played.members[name], twice, played.nodes[name].sign)
        strangers = tuple(signed_confirmation(one.document, node(STRANGER)) for _ in range(4))
        with pytest.raises(NotAllowed, match="is not one it signed"):
            unmask(
                played.members[name],
                request.model_copy(update={"confirmations": strangers}),
                played.nodes[name].sign,
            )
        outsiders = tuple(
            signed_confirmation(
                Confirmation(node_key=node(n).public, survivors_hash=request.survivors.digest()), node(n)
            )
            for n in range(STRANGER, STRANGER + 4)
        )
        with pytest.raises(NotAllowed, match="Only 0 of the 4 members"):
            unmask(
                played.members[name],
                request.model_copy(update={"confirmations": outsiders}),
                played.nodes[name].sign,
            )

    def test_nothing_is_opened_before_survivors_were_confirmed(self) -> None:
        played, confirmed = until(3), until(4)
        assert isinstance(confirmed.stage, Answers)
        with pytest.raises(NotAllowed, match="survivors that it did not confirm"):
            unmask(played.members[NAMES[0]], confirmed.stage.request, played.nodes[NAMES[0]].sign)


class TestCoordinator:
    def test_an_advert_counts_once_and_as_signed(self) -> None:
        played = until(0)
        second = advertise(TERMS, NAMES[0], played.nodes[NAMES[0]].sign).answer
        assert played.stage.take(played.stage.taken[NAMES[0]]) == played.stage
        with pytest.raises(ContributionRefused, match="answered otherwise before"):
            played.stage.take(second)
        wrong = second.model_copy(update={"signature": node(STRANGER).sign(second.document.canonical())})
        with pytest.raises(ContributionRefused, match="signature does not match"):
            until(0, {NAMES[0]: 0}).stage.take(wrong)
        with pytest.raises(ContributionRefused, match="not for this round"):
            played.stage.take(advertise(terms_for({NAMES[0]: 2}), NAMES[0], played.nodes[NAMES[0]].sign).answer)

    def test_shares_must_be_one_for_each_holder_of_this_roster(self) -> None:
        played = until(2)
        assert isinstance(played.stage, Inputs)
        stage = Shares(played.stage.roster)
        said = played.members[NAMES[0]].shares
        assert said is not None
        for changed, problem in (
            (said.model_copy(update={"shares": dict(list(said.shares.items())[1:])}), "not for this member's holders"),
            (said.model_copy(update={"roster_hash": HASH}), "not of this round"),
        ):
            signed = Signed[SealedShares](document=changed, signature=played.nodes[NAMES[0]].sign(changed.canonical()))
            with pytest.raises(ContributionRefused, match=problem):
                stage.take(signed)

    def test_masked_words_are_those_that_were_signed(self) -> None:
        played = until(3)
        assert isinstance(played.stage, Confirmations)
        stage, name = played.stage.inputs, NAMES[0]
        empty = Inputs(stage.roster, stage.shares)
        for words in (played.words[name][:-4], played.words[NAMES[1]]):
            with pytest.raises(ContributionRefused, match="not the 24 bytes that were signed"):
                empty.take(stage.taken[name], words)

    def test_the_sum_is_over_the_signed_words_of_every_survivor_once(self) -> None:
        played = play(TERMS, UPDATES)
        assert isinstance(played.stage, Answers)
        words = list(played.words.items())
        with pytest.raises(ContributionRefused, match="is missing"):
            played.stage.total(words[1:])
        with pytest.raises(ContributionRefused, match="not the one that it signed"):
            played.stage.total([*words, words[0]])
        with pytest.raises(ContributionRefused, match="not the one that it signed"):
            played.stage.total([(words[0][0], words[1][1]), *words[1:]])

    def test_a_share_that_nobody_dealt_is_refused_and_the_rest_are_enough(self) -> None:
        played = until(4)
        assert isinstance(played.stage, Answers)
        stage = played.stage
        for number, name in enumerate(NAMES):
            said = unmask(played.members[name], stage.request, played.nodes[name].sign).answer
            if number == 0:
                lie = said.document.model_copy(update={"seeds": said.document.seeds | {NAMES[2]: "ab" * 16}})
                with pytest.raises(ContributionRefused, match="is not the one that it dealt"):
                    stage.take(_signed_answer(lie, played.nodes[name]))
                continue
            stage = stage.take(said)
        total = stage.total(played.words.items())
        assert (total == plain_sum(TERMS, UPDATES, NAMES)).all()

    def test_a_key_share_of_a_survivor_is_not_even_taken(self) -> None:
        """An honest coordinator does not want what it must not have."""
        played = until(4)
        assert isinstance(played.stage, Answers)
        said = unmask(played.members[NAMES[0]], played.stage.request, played.nodes[NAMES[0]].sign).answer.document
        both = said.model_copy(update={"keys": {NAMES[1]: "ab" * 16}})
        with pytest.raises(ContributionRefused, match="is not the one that it dealt"):
            played.stage.take(_signed_answer(both, played.nodes[NAMES[0]]))

    def test_a_member_that_shares_another_secret_is_named(self) -> None:
        """Its masks cannot be taken off, so the round ends; but everyone knows because of whom."""
        ended = play(TERMS, UPDATES, false_seed=NAMES[0])
        with pytest.raises(Conflict, match=rf"Node {NAMES[0][:14]}… shared a secret that is not its own.*without it"):
            ended.total()

    def test_answers_about_another_set_are_refused(self) -> None:
        played = until(4)
        assert isinstance(played.stage, Answers)
        said = unmask(played.members[NAMES[0]], played.stage.request, played.nodes[NAMES[0]].sign).answer.document
        with pytest.raises(ContributionRefused, match="answers for other survivors"):
            played.stage.take(_signed_answer(said.model_copy(update={"survivors_hash": HASH}), played.nodes[NAMES[0]]))
        confirming = until(3)
        assert isinstance(confirming.stage, Confirmations)
        with pytest.raises(ContributionRefused, match="confirms other survivors"):
            confirming.stage.take(
                signed_confirmation(Confirmation(node_key=NAMES[0], survivors_hash=HASH), confirming.nodes[NAMES[0]])
            )

    def test_too_few_answers_end_in_one_sentence(self) -> None:
        with pytest.raises(Conflict, match=r"^Only 3 holders who hold a share of node \S+ answered, and it takes 4\."):
            play(TERMS, UPDATES, dict.fromkeys(NAMES[:2], 4)).total()


def test_a_member_goes_on_after_a_restart_from_what_it_wrote_down() -> None:
    played = until(4)
    assert isinstance(played.stage, Answers)
    for name in NAMES:
        back = Member.model_validate_json(played.members[name].canonical())
        assert back == played.members[name]
        assert unmask(back, played.stage.request, played.nodes[name].sign).answer.document == (
            unmask(played.members[name], played.stage.request, played.nodes[name].sign).answer.document
        )


def test_no_signed_message_passes_for_another() -> None:
    kinds = (KeyAdvert, SealedShares, MaskedInput, Confirmation, UnmaskAnswer)
    names = {kind.model_fields["kind"].default for kind in kinds}
    assert len(names) == len(kinds)
    said = Confirmation(node_key=NAMES[0], survivors_hash=HASH)
    for kind in kinds:
        if kind is not Confirmation:
            with pytest.raises(ValidationError):
                kind.model_validate_json(said.canonical())


def test_every_message_comes_through_json_unchanged() -> None:
    played = play(TERMS, UPDATES, {NAMES[1]: 2})
    assert isinstance(played.stage, Answers)
    inputs = played.stage.inputs
    messages: list[Document] = [TERMS, inputs.roster, inputs.deliveries(NAMES[0]), played.stage.request]
    messages += [*inputs.taken.values(), *played.stage.taken.values(), *inputs.shares.values()]
    for message in messages:
        assert type(message).model_validate_json(message.canonical()) == message


@pytest.mark.parametrize(("count", "needed"), [(3, 2), (4, 3), (5, 4), (6, 5), (9, 7), (101, 68), (1000, 667)])
def test_two_thirds_is_a_majority_that_one_may_miss(count: int, needed: int) -> None:
    assert two_thirds(count) == needed
    assert count // 2 < needed < count


def _without(parcel: Deliveries, gone: str) -> Deliveries:
    sealed = {peer: one for peer, one in parcel.sealed.items() if peer != gone}
    return Deliveries(
        roster_hash=parcel.roster_hash, present=tuple(n for n in parcel.present if n != gone), sealed=sealed
    )


def _survivors(played: Play, names: list[str]) -> Survivors:
    inputs = played.stage.inputs if isinstance(played.stage, Confirmations | Answers) else played.stage
    assert isinstance(inputs, Inputs)
    return Survivors(roster_hash=inputs.roster.hash, present=inputs.present, survivors=tuple(sorted(names)))


def _confirmed(played: Play, shown: Survivors, names: list[str]) -> tuple[Signed[Confirmation], ...]:
    said = (Confirmation(node_key=name, survivors_hash=shown.digest()) for name in names)
    return tuple(signed_confirmation(one, played.nodes[one.node_key]) for one in said)


def _signed_answer(said: UnmaskAnswer, signer: Node) -> Signed[UnmaskAnswer]:
    return Signed[UnmaskAnswer](document=said, signature=signer.sign(said.canonical()))
