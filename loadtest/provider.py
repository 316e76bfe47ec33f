"""A model provider as a process: `python -m loadtest.provider PORT`. Answers every POST with the same recorded stream.

`/v1/responses` speaks OpenAI's Responses, `/v1/messages` Anthropic's Messages: 50 pieces of text, an event a write.
No framework: it must not be what is measured.
"""

from __future__ import annotations

import asyncio
import re
import sys

import uvloop
from tests.models import fake_anthropic, fake_openai

PIECES = 50
_GAP_S = 0.001
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


def _chunked(frames: list[bytes]) -> list[bytes]:
    return [b"%x\r\n%s\r\n" % (len(frame), frame) for frame in frames]


def _streams() -> dict[bytes, list[bytes]]:
    words = [f"word{number} " for number in range(PIECES)]
    openai, anthropic = fake_openai.Script().text(*words), fake_anthropic.Script().text(*words)
    return {
        b"/v1/responses": _chunked(list(openai.completed().frames)),
        b"/v1/messages": _chunked(list(anthropic.stopped("end_turn").frames)),
    }


_STREAMS = _streams()
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = _LENGTH.search(head)
            await reader.readexactly(int(length[1]) if length else 0)
            writer.write(_HEAD)
            for frame in _STREAMS[head.split(b" ", 2)[1]]:
                writer.write(frame)
                await asyncio.sleep(_GAP_S)
            writer.write(b"0\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def _run(port: int) -> None:
    server = await asyncio.start_server(_serve, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_run(int(sys.argv[1])))
