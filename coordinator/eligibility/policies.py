"""Every policy that was ever in force here, by its hash: a release carries the one that its round ran under."""

from pathlib import Path

from pydantic import ValidationError

from protocol.policy import Policy


def keep(folder: Path, policy: Policy) -> None:
    """Write the policy down under its hash; the same one again changes nothing."""
    file = folder / f"{policy.digest()}.json"
    if file.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    part.write_bytes(policy.canonical())
    part.replace(file)


def kept(folder: Path, policy_hash: str) -> Policy | None:
    """The policy with this hash; None where it never was in force here, or its file was changed."""
    try:
        policy = Policy.model_validate_json((folder / f"{policy_hash}.json").read_bytes())
    except (OSError, ValidationError):
        return None
    return policy if policy.digest() == policy_hash else None
