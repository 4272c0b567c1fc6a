"""Checking a release: what its papers, the chain and its contributions say of it, one named check after the other.

``papers`` needs the release's files alone and is pure but for reading them; ``onchain`` asks a chain node. Merging
again is in the package ``merging``. What cannot be checked is said, never passed over.
"""

from protocol.verification.onchain import check_chain
from protocol.verification.papers import Release, check_papers, read_release
from protocol.verification.report import Check, Outcome, Report, report_table

__all__ = ["Check", "Outcome", "Release", "Report", "check_chain", "check_papers", "read_release", "report_table"]
