"""What a release's own files say of it, with no network: files, manifest, signatures, policy, licences, weights."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, partial
from pathlib import Path

from pydantic import ValidationError

from protocol.base import BASE_STATISTICS
from protocol.canonical import canonical, sha256
from protocol.counted import counted
from protocol.errors import BadInput, ContentMismatch, CoterieError, NotAllowed
from protocol.grant import require_signer
from protocol.manifest import Manifest, MergedContribution, contribution_file
from protocol.modes import Mode
from protocol.policy import Facts, Held, Policy, RobustRule, Standing, Verdict, judge, licences_of, release_terms
from protocol.release_signature import SIGNATURE, SigningKey, require_signed
from protocol.unixfs import Cid, build_directory
from protocol.verification.report import Check, NotChecked, checked

MANIFEST, POLICY = "manifest.json", "policy.json"
VERSION = 1
_PIECE = 1 << 20
_WITHOUT_CHAIN = Facts(standing=Standing(member=True, reason=""), held=Held(blocks=2**62, seconds=2**62))
"""Whoever it was, whatever the chain says: what a policy's word on a token or a collection does not depend on."""


@dataclass(frozen=True)
class Release:
    """A release's files as they are on this machine: SHA-256 by name, the documents among them, and the CID of all."""

    folder: Path
    cid: str
    hashes: Mapping[str, str]
    manifest_bytes: bytes
    policy_bytes: bytes | None
    signature: bytes | None = None
    """``model.sig``."""

    @cached_property
    def manifest(self) -> Manifest:
        """Raises BadInput: it cannot be read."""
        return parse_manifest(self.manifest_bytes)

    @cached_property
    def policy(self) -> Policy | None:
        """None where the release has none, or one that cannot be read."""
        try:
            return Policy.model_validate_json(self.policy_bytes) if self.policy_bytes else None
        except ValidationError:
            return None

    @property
    def is_signed(self) -> bool:
        """Whether its manifest can be read and says that the coordinator signed it."""
        try:
            return self.manifest.signing_key is not None
        except BadInput:
            return False

    @property
    def carries_contributions(self) -> bool:
        """Whether everything that was merged lies in it."""
        return bool(self.manifest.contributions) and all(
            {contribution_file(one.contribution_id, "adapter"), contribution_file(one.contribution_id, "statistics")}
            <= set(self.hashes)
            for one in self.manifest.contributions
        )


def read_release(folder: Path) -> Release:
    """Hash everything in ``folder``.

    Raises:
        BadInput: there is no manifest.json in it, or a link.
    """
    if not (folder / MANIFEST).is_file():
        raise BadInput(f"{folder} holds no {MANIFEST}, so it is no release of Coterie.", "Name a release's folder.")
    found = sorted(path for path in folder.rglob("*") if not path.is_dir() or path.is_symlink())
    if link := next((path for path in found if path.is_symlink()), None):
        raise BadInput(f"{link} is a link, which no release has.", "Remove it, or pull the release again.")
    files = {path.relative_to(folder).as_posix(): path for path in found}
    root, _ = build_directory(files)
    return Release(
        folder=folder,
        cid=str(root),
        hashes={name: _hash_file(path) for name, path in files.items() if name != MANIFEST},
        manifest_bytes=files[MANIFEST].read_bytes(),
        policy_bytes=files[POLICY].read_bytes() if POLICY in files else None,
        signature=files[SIGNATURE].read_bytes() if SIGNATURE in files else None,
    )


def parse_manifest(data: bytes) -> Manifest:
    """Raises BadInput: no manifest, or one of a version that is not known here."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadInput("manifest.json is no JSON.", "Pull the release again.") from error
    version = value.get("version") if isinstance(value, dict) else None
    if isinstance(version, int) and version > VERSION:
        raise BadInput(
            f"The manifest has version {version}, and this program knows {VERSION}.", "Update Coterie and verify again."
        )
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise BadInput(f"The manifest cannot be read at {place}: {first['msg']}.", "Pull the release again.") from error


def check_papers(release: Release, cid: str | None = None, trusted: SigningKey | None = None) -> list[Check]:
    """Every check that needs no network.

    Args:
        cid: what the release is called; without it, that is not checked.
        trusted: the key that the release is to be signed with; without it, whose the signature is stays open.
    """
    first = [
        checked("content identifier", lambda: _content_identifier(release, cid)),
        checked("manifest", lambda: _manifest(release)),
    ]
    try:
        manifest = release.manifest
    except CoterieError:
        return first
    questions: Sequence[tuple[str, Callable[[Release, Manifest], str]]] = (
        ("files", _files),
        ("wallet signatures", _wallets),
        ("node signatures", _nodes),
        ("order", _order),
        ("policy", _policy),
        ("verdicts", _verdicts),
        ("licence and duties", _terms),
        ("weights", _weights),
        ("parent", _parent),
        ("published contributions", _contributions),
        ("coordinator signature", partial(_coordinator, trusted=trusted)),
    )
    return first + [checked(name, lambda ask=ask: ask(release, manifest)) for name, ask in questions]  # type: ignore[misc]


def _content_identifier(release: Release, cid: str | None) -> str:
    if cid is None:
        raise NotChecked(f"These files are {release.cid}: compare it with what was published, or name it with --cid.")
    if Cid.parse(cid) != Cid.parse(release.cid):
        raise ContentMismatch(f"These files are {release.cid}, not {cid}.")
    return f"Every byte is {cid}'s."


def _manifest(release: Release) -> str:
    manifest = release.manifest
    if canonical(json.loads(release.manifest_bytes)) != release.manifest_bytes:
        raise BadInput("The manifest is not in its canonical form, so it was changed after it was written.")
    return f"Version {manifest.version}, in canonical form: {manifest.dao}, round {manifest.round_id}, {manifest.kind}."


def _files(release: Release, manifest: Manifest) -> str:
    for name in sorted(set(manifest.names) | set(release.hashes)):
        said, found = manifest.files.get(name), release.hashes.get(name)
        if name == SIGNATURE and manifest.signing_key and found:
            continue  # over the manifest, which therefore cannot say what it is
        if said is None and found:
            raise ContentMismatch(f"{name} is not named in the manifest.")
        if found is None:
            raise ContentMismatch(f"{name} is missing.")
        if said != found:
            raise ContentMismatch(f"{name} is not what the manifest says.")
    own = manifest.merge.base_statistics
    if own and manifest.files.get(BASE_STATISTICS, own.sha256) != own.sha256:
        raise ContentMismatch(f"{BASE_STATISTICS} is not the one that the merge is said to have had.")
    return f"All {len(manifest.names)} files are those that the manifest names, and no other."


def _wallets(release: Release, manifest: Manifest) -> str:
    for one in manifest.contributions:
        with _about(one):
            if not one.needs_chain:
                require_signer(one.grant, one.grant_signature, one.member)
    if asked := manifest.unproven:
        raise NotChecked(
            f"{len(manifest.contributions) - len(asked)} of {len(manifest.contributions)} grants are signed by their "
            f"wallets' keys; {asked[0].member} is a contract wallet, which only the chain can ask: use --chain."
        )
    return f"{_count(manifest.contributions, 'grant')} signed by the members' wallets (EIP-712)."


def _nodes(release: Release, manifest: Manifest) -> str:
    named = [one.contribution_id for one in manifest.contributions]
    if len(set(named)) != len(named):
        raise BadInput("A contribution is named twice.")
    for one in manifest.contributions:
        with _about(one):
            one.check()
            _agree(manifest, one)
    return f"{_count(manifest.contributions, 'contribution')} signed by the granted node keys, none beyond its grant."


def _agree(manifest: Manifest, one: MergedContribution) -> None:
    """Contribution, grant and manifest are about the same thing."""
    grant, header = one.grant, one.header
    told: tuple[tuple[str, object, object], ...] = (
        ("DAO", grant.dao, manifest.dao),
        ("chain", grant.chain_id, manifest.snapshot.chain_id),
        ("base", header.base_hash, manifest.base.hash),
        ("base", grant.base_hash, manifest.base.hash),
        ("policy", header.policy_hash, grant.policy_hash),
    )
    if header.round_id == manifest.round_id:
        told += (
            ("plan", header.plan_hash, manifest.plan.digest()),
            ("policy", header.policy_hash, manifest.policy_hash),
        )
    for what, said, meant in told:
        if said != meant:
            raise BadInput(f"it is for another {what} than the release.")


def _order(release: Release, manifest: Manifest) -> str:
    signed = manifest.order
    if signed is None:
        if manifest.kind == "removal":
            raise NotChecked("Nobody orders a removal round: it follows from a sale or from an act in the log.")
        raise NotChecked("The manifest does not carry the admin's order.")
    order = signed.order
    for what, said, meant in (
        ("DAO", order.dao, manifest.dao),
        ("chain", order.chain_id, manifest.snapshot.chain_id),
        ("plan", order.plan.canonical(), manifest.plan.canonical()),
        ("policy", order.policy_hash, manifest.policy_hash),
        ("base", order.base_hash, manifest.base.hash),
        ("round", order.digest()[:16], manifest.round_id),
    ):
        if said != meant:
            raise NotAllowed(f"The admin's order is for another {what} than the release.")
    try:
        require_signer(order, signed.signature, order.admin)
    except NotAllowed as error:
        raise NotChecked(
            f"The order is not signed by a key of {order.admin}; if that is a contract wallet, --chain asks it."
        ) from error
    return f"{order.admin} signed the order over exactly this plan, policy and base; use --chain to ask for its role."


def _policy(release: Release, manifest: Manifest) -> str:
    if release.policy_bytes is None:
        raise NotChecked("The release carries no policy.json.")
    if sha256(release.policy_bytes) != manifest.policy_hash:
        raise ContentMismatch("policy.json is not the policy that the manifest names by its hash.")
    policy = _known(release)
    policy.require_mode(manifest.plan.mode)
    if policy.dao != manifest.dao or policy.chain_id != manifest.snapshot.chain_id:
        raise ContentMismatch("policy.json is another DAO's, or of another chain.")
    return f"policy.json hashes to {manifest.policy_hash[:16]}…, which every grant of this round names."


def _verdicts(release: Release, manifest: Manifest) -> str:
    policy, asked, again = _known(release), 0, 0
    for verdict in manifest.exclusions:
        if verdict.allow:
            raise NotAllowed(f"{verdict.token} is listed as kept out, and its verdict allows it.")
    for one, verdict in _admitted(manifest):
        with _about(one):
            asked += 1
            if not verdict.allow:
                raise NotAllowed(f"{verdict.token} was trained on and is denied: {verdict.reason}")
            if one.grant.policy_hash != manifest.policy_hash:
                continue
            if verdict.rule in ("token", "collection"):
                require_same_verdict(verdict, judge(policy, verdict.token, _WITHOUT_CHAIN))
                again += 1
    if not asked:
        raise NotChecked("The manifest does not carry the verdicts on what was trained on.")
    rest = "" if asked == again else f" {asked - again} hang on what contracts declare, or on another policy: --chain."
    return f"{asked} tokens were trained on, all admitted; {again} verdicts follow from policy.json alone.{rest}"


def require_same_verdict(said: Verdict, found: Verdict) -> None:
    """Two verdicts on one token decide the same, for the same licence and duties.

    Raises:
        NotAllowed: they do not.
    """
    terms = ("allow", "rule", "licence", "duties", "on_transfer", "warrant")
    if differing := next((name for name in terms if getattr(said, name) != getattr(found, name)), None):
        raise NotAllowed(
            f"the policy says otherwise of {said.token}: {differing} is {getattr(found, differing)}, "
            f"not {getattr(said, differing)}."
        )


def _terms(release: Release, manifest: Manifest) -> str:
    policy, verdicts = _known(release), [verdict for _, verdict in _admitted(manifest)]
    if not verdicts:
        raise NotChecked("The manifest does not carry the verdicts that the licence follows from.")
    for one in manifest.contributions:
        if one.licences != licences_of(one.verdicts):
            raise ContentMismatch(f"Contribution {one.contribution_id} was trained under other licences than it says.")
    terms = release_terms(policy, verdicts)
    if (terms.licence, terms.duties) != (manifest.licence, manifest.duties):
        raise ContentMismatch(
            f"By the policy the release is under {terms.licence}, not {manifest.licence}, or duties differ."
        )
    duties = f", duties: {', '.join(map(str, terms.duties))}" if terms.duties else ", no duties"
    return f"{terms.licence}{duties}: the strictest of what went in."


def _weights(release: Release, manifest: Manifest) -> str:
    given = manifest.contributions
    if manifest.kind == "training" and not given:
        raise BadInput("Nothing was merged.")
    total = sum(one.weight for one in given)
    for one in given:
        if total == 0 or one.share != one.weight / total:
            raise ContentMismatch(f"Contribution {one.contribution_id} has another share than its weight gives.")
    if manifest.plan.mode is Mode.DP:
        if any(one.weight != 1 for one in given):
            raise ContentMismatch("In a dp round everybody weighs the same, and here they do not.")
        return "Everybody weighs the same, as in every dp round."
    policy, weights = _known(release), policy_weights(release)
    if weights is None:
        raise NotChecked("Shares follow from weights; the manifest does not say how many tokens each weight counts.")
    if policy.robust is not RobustRule.NONE or "without outliers" in manifest.merge.candidate:
        return f"Shares follow from weights, and those from the policy ({policy.weights}), cut by a robust rule."
    most = max(Fraction(one.weight, weights[one.contribution_id]) for one in given)
    for one in given:
        factor = Fraction(one.weight, weights[one.contribution_id])
        if factor != most and not one.note:
            raise ContentMismatch(f"Contribution {one.contribution_id} has another weight than the policy gives.")
    return f"Weights and shares follow from the policy ({policy.weights})."


def policy_weights(release: Release) -> dict[str, int] | None:
    """By contribution, its weight before any robust rule; None where the manifest or the policy does not say.

    Raises:
        ContentMismatch: more tokens are counted than were granted, or fewer than were trained on.
    """
    policy, given = release.policy, release.manifest.contributions
    if policy is None or any(one.admitted is None for one in given):
        return None
    for one in given:
        if not len(one.tokens) <= (one.admitted or 0) <= len(one.grant.tokens):
            raise ContentMismatch(f"Contribution {one.contribution_id} counts other tokens than were granted.")
    weights = policy.shares_capped([policy.weight_of(one.admitted or 0) for one in given])
    return {one.contribution_id: weight for one, weight in zip(given, weights, strict=True)}


def _parent(release: Release, manifest: Manifest) -> str:
    live = {one.contribution_id for one in manifest.contributions}
    if again := next((one for one in manifest.removals if one.contribution_id in live), None):
        raise ContentMismatch(f"Contribution {again.contribution_id} is removed and merged at once.")
    if manifest.parent is None:
        if manifest.kind == "removal":
            raise BadInput("A removal names no parent that it removes from.")
        return "The DAO's first release: it has no parent."
    Cid.parse(manifest.parent)
    return (
        f"It follows {manifest.parent}; without {counted(len(manifest.removals), 'contribution')} of earlier releases."
    )


def _contributions(release: Release, manifest: Manifest) -> str:
    told = {
        contribution_file(one.contribution_id, what): digest
        for one in manifest.contributions
        for what, digest in (("adapter", one.header.adapter_sha256), ("statistics", one.header.statistics_sha256))
        if digest
    }
    carried = {name for name in release.hashes if name.startswith("contributions/")}
    if not carried:
        raise NotChecked(
            "The release does not carry its contributions, so it can be merged again only by who has them."
        )
    if manifest.plan.mode is not Mode.OPEN:
        raise NotAllowed(f"A {manifest.plan.mode} release must not carry contributions.")
    if strange := sorted(carried - set(told)):
        raise ContentMismatch(f"{strange[0]} is of no contribution in the manifest.")
    if other := next((name for name in sorted(carried) if release.hashes[name] != told[name]), None):
        raise ContentMismatch(f"{other} is not what its node signed.")
    return f"{len(carried)} of {len(told)} files are here, each as its node signed it."


def _coordinator(release: Release, manifest: Manifest, trusted: SigningKey | None) -> str:
    if manifest.signing_key is None:
        if trusted:
            raise NotAllowed(f"The release is not signed at all; the key {trusted.fingerprint[:16]}… should have.")
        raise NotChecked("The release carries no signature of its coordinator, as early ones did not.")
    if release.signature is None:
        raise ContentMismatch(f"{SIGNATURE} is missing, which the manifest announces.")
    key = SigningKey.parse(manifest.signing_key.encode(), "The manifest's signing_key")
    signed = {name: found for name, found in release.hashes.items() if name != SIGNATURE}
    require_signed(release.signature, key, {**signed, MANIFEST: sha256(release.manifest_bytes)})
    told = f"{SIGNATURE} is over all {len(signed) + 1} other files, by the key {key.fingerprint[:16]}…"
    if trusted is None:
        raise NotChecked(f"{told}, which the release itself names; name the coordinator's own with --signing-key.")
    if trusted != key:
        raise NotAllowed(f"{told}, and not by {trusted.fingerprint[:16]}…, which should have signed.")
    return f"{told}, which is the coordinator's."


def _known(release: Release) -> Policy:
    if release.policy_bytes is None:
        raise NotChecked("The release carries no policy.json.")
    if release.policy is None:
        raise BadInput("policy.json is no policy.")
    return release.policy


def _admitted(manifest: Manifest) -> Iterator[tuple[MergedContribution, Verdict]]:
    """Each verdict on a token that was trained on; raises ContentMismatch where they are on other tokens."""
    for one in manifest.contributions:
        if one.verdicts and [verdict.token for verdict in one.verdicts] != [use.token for use in one.tokens]:
            raise ContentMismatch(f"Contribution {one.contribution_id} has verdicts on other tokens than it used.")
        for verdict in one.verdicts:
            yield one, verdict


class _about:  # noqa: N801 - reads as a word in "with _about(one)"
    """Failures within are told of this contribution."""

    def __init__(self, one: MergedContribution) -> None:
        self._one = one

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, CoterieError):
            raise type(error)(f"Contribution {self._one.contribution_id}: {error.message}", error.hint) from error


def _count(things: Sequence[object], word: str) -> str:
    return f"{len(things)} {word}{' is' if len(things) == 1 else 's are'}"


def _hash_file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()
