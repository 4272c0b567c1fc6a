"""Where a member's machine tells how far it is in a round. Only the member and the DAO's admins are shown it."""

from coordinator.rounds.progress import LEAST_SECONDS, note
from coordinator.web.acts import RoundPath
from coordinator.web.openapi import Answer, Request, Routes
from coordinator.web.service import service
from protocol import node_key
from protocol.errors import BadInput, ContributionRefused, NotAllowed
from protocol.progress import Progress

progress = Routes("progress", __name__, tag="Machines", url_prefix="/api/v1")


class ProgressRequest(Request):
    progress: Progress
    signature: str


class NotedProgress(Answer):
    round_id: str
    next_in: int
    """Seconds; what comes sooner is refused."""


@progress.post("/rounds/<round_id>/progress")
def tell_progress(path: RoundPath, body: ProgressRequest) -> NotedProgress:
    """A machine tells how far it is. Its newest message counts, as long as the round waits for what it does."""
    here, told = service(), body.progress
    if told.round_id != path.round_id:
        raise BadInput("The message is about another round.", "Send it to the address of the round that it names.")
    try:
        node_key.verify(told.node_key, told.canonical(), body.signature)
    except ContributionRefused as error:
        raise NotAllowed(
            "The message is not signed with the node key that it names.", "Sign it on the machine that has the key."
        ) from error
    with here.database.writing() as session:
        note(session, told, here.now())
    return NotedProgress(round_id=told.round_id, next_in=LEAST_SECONDS)
