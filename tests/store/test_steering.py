"""Messages given to a live run, at the store: how much may wait, and a sending whose reply was lost."""

from __future__ import annotations

from agentrt.store.begin import Steered
from tests.store.stage import Store, ending, message, new_session


async def test_as_much_waits_for_a_step_as_one_script_may_handle(store: Store) -> None:
    """Bodies may have megabytes: what does not fit is a message of its own, and smaller ones still go in."""
    live = message(new_session())
    await store.own(live)

    async def steer(size: int) -> object:
        text = b'[{"text":"%b"}]' % (b"x" * size)
        return await store.sessions.steer(message(live.session, create=False, input=text), live.run)

    assert await steer(700 * 1024) == Steered(live.run)
    assert await steer(700 * 1024) is None
    assert await steer(1024) == Steered(live.run)
    assert await steer(2 * 1024 * 1024) is None
