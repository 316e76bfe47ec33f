"""A connection that nobody uses for a while is still there: load balancers keep theirs, and send on them."""

from __future__ import annotations

import asyncio

from tests.harness.pod import Pod

QUIET_S = 6.0
"""Longer than uvicorn waits by itself."""


async def test_an_idle_connection_is_kept(pods: list[Pod]) -> None:
    """The second request on it is answered, not reset; nobody but the sender of the first could send it again."""
    reader, writer = await asyncio.open_connection("127.0.0.1", pods[0].port)
    request = b"GET /livez HTTP/1.1\r\nhost: pod\r\n\r\n"
    writer.write(request)
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    try:
        async with asyncio.timeout(QUIET_S):  # what is being tested: nobody closes it
            while await reader.read(65536):
                pass
        raise AssertionError("the pod has closed it")
    except TimeoutError:
        pass
    writer.write(request)
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    writer.close()
