"""Messages given to a live run, at the store: how much may wait, and a sending whose reply was lost."""

from __future__ import annotations

import pytest

from agentrt.store.begin import Steered
from agentrt.store.keys import new_id
from agentrt.store.ownership import Owned, Owner
from tests.store.stage import Store, again, ending, line_up, message, new_session


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


async def test_sent_again_when_its_run_has_ended(store: Store) -> None:
    """Its reply was lost, and the run took it in and ended before it came again: it happens once. Another does not."""
    live = message(new_session())
    owned = await store.own(live)
    want = message(live.session, create=False, policy="steer", input=b'[{"x":1}]')
    assert await store.sessions.steer(want, live.run) == Steered(live.run)
    assert len(await store.sessions.steers(owned)) == 1
    assert await store.sessions.commit(owned, ending(b'{"id":"1"}', steered=1)) == 1
    assert await store.sessions.steer(want, live.run) == Steered(live.run)
    assert await store.sessions.steer(message(live.session, create=False), live.run) is None


@pytest.mark.parametrize("claimed", [False, True])
async def test_what_came_before_the_failure_and_what_came_since(store: Store, claimed: bool) -> None:
    """A steered run failed, waits in line to go on, and is steered once more before its pod looks; or that pod dies."""
    run = message(new_session(), by_key=True)
    owned = await store.own(run)
    assert await store.sessions.steer(message(run.session, create=False, input=b'["before"]'), run.run) == Steered(
        run.run
    )
    assert await store.sessions.commit(owned, ending(status="failed", retry=True, steered=1)) == 1
    live = await store.own(message(run.session))
    waiting = again(run)
    await line_up(store, waiting)
    assert await store.sessions.commit(live, ending(b'{"id":"2"}')) == 2
    assert await store.sessions.steer(message(run.session, create=False, input=b'["since"]'), run.run) == Steered(
        run.run
    )
    if claimed:
        resumed = await store.sessions.claim(run.session, Owner(run.run, waiting.token, "pod-a"), new_id())
    else:
        resumed = await store.begin(waiting)
    assert isinstance(resumed, Owned)
    assert await store.sessions.steers(resumed) == ['["before"]', '["since"]']
    assert await store.sessions.commit(resumed, ending(b'{"id":"3"}', steered=2)) == 3
