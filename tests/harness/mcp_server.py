"""A real MCP server as a process: `python -m tests.harness.mcp_server WORLD [PORT]`, over stdio without a port.

Each call that happens leaves a line in the file WORLD: the tool, its argument, and what came in `_meta`.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import mcp_types as types
from mcp.server.mcpserver import Context, MCPServer

from agentrt.tools.mcp import META_FENCE, META_KEY
from tests.harness.redis_server import free_port


def make(world: Path) -> MCPServer:
    """The server."""
    server = MCPServer("world", log_level="ERROR")

    def happen(ctx: Context[Any, Any], tool: str, argument: str) -> None:
        meta = dict(ctx.request_context.meta or {})
        row = {"tool": tool, "argument": argument, "key": meta.get(META_KEY), "fence": meta.get(META_FENCE)}
        with world.open("a") as file:
            file.write(json.dumps(row) + "\n")

    @server.tool(annotations=types.ToolAnnotations(read_only_hint=True))
    async def find(ctx: Context[Any, Any], what: str, limit: int = 3) -> str:
        """Find something."""
        happen(ctx, "find", what)
        return f"found {what}"

    @server.tool(annotations=types.ToolAnnotations(idempotent_hint=True))
    async def put(ctx: Context[Any, Any], what: str) -> str:
        """Put something."""
        happen(ctx, "put", what)
        return f"put {what}"

    @server.tool()
    async def add(ctx: Context[Any, Any], what: str) -> str:
        """Add something."""
        happen(ctx, "add", what)
        return f"added {what}"

    @server.tool()
    async def fail() -> str:
        """Fail."""
        raise ValueError("no such customer")

    @server.tool()
    async def die(ctx: Context[Any, Any], what: str) -> str:
        """Do something, and die before it is told."""
        happen(ctx, "die", what)
        os._exit(1)

    @server.tool()
    async def dawdle(ctx: Context[Any, Any]) -> str:
        """Take too long."""
        happen(ctx, "dawdle", "")
        await asyncio.sleep(60)
        return "late"

    return server


class McpProcess:
    """The server over HTTP on a port of its own."""

    def __init__(self, world: Path) -> None:
        self.world = world
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/mcp"
        self._log = Path(tempfile.mkstemp(prefix="agentrt-mcp-", suffix=".log")[1])
        self._process: subprocess.Popen[bytes] | None = None

    def rows(self) -> list[dict[str, Any]]:
        """What really happened."""
        return [json.loads(line) for line in self.world.read_text().splitlines()] if self.world.exists() else []

    def start(self) -> McpProcess:
        if self._process is not None:
            self.kill()
        command = [sys.executable, "-m", "tests.harness.mcp_server", str(self.world), str(self.port)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"no MCP server: {self._log.read_text()[-2000:]}") from None
                time.sleep(0.05)
            else:
                return self

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> McpProcess:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        self._log.unlink(missing_ok=True)


if __name__ == "__main__":
    made = make(Path(sys.argv[1]))
    if len(sys.argv) > 2:
        made.run("streamable-http", host="127.0.0.1", port=int(sys.argv[2]))
    else:
        made.run("stdio")
