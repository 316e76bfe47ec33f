"""Child processes that do not outlive their parent."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Mapping, Sequence
from contextlib import suppress

__all__ = ["POLL_S", "fate", "spawn", "stop"]

POLL_S = 0.02

# Runs between fork and exec, in a Python of its own: a preexec_fn would run after a fork of a process with threads.
# PR_SET_PDEATHSIG (1) outlives exec; the parent may have died before it was set, hence the second look.
_LAUNCH = """
import ctypes, os, sys
parent, death_signal, argv = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, *map(ctypes.c_ulong, (death_signal, 0, 0, 0)))
if os.getppid() != parent:
    sys.exit("agentrt: the supervisor is gone")
os.execv(argv[0], argv)
"""


async def spawn(
    argv: Sequence[str], env: Mapping[str, str], *, hand_over: int, death_signal: int, quiet: bool = False
) -> Process:
    """A child that gets `death_signal` when this process is gone. It takes over the descriptor `hand_over`.

    Call it on the main thread: the kernel takes the end of the thread that forked for the parent's death.
    """
    try:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", "-c", _LAUNCH, str(os.getpid()), str(int(death_signal))),
            *argv,
            env=dict(env),
            stdin=DEVNULL,
            stdout=DEVNULL if quiet else None,
            pass_fds=(hand_over,),
            start_new_session=True,
        )
    finally:
        os.close(hand_over)


async def stop(process: Process, stop_s_max: float) -> None:
    """SIGTERM, and SIGKILL when it has not ended after `stop_s_max`."""
    if process.returncode is not None:
        return
    with suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(stop_s_max):
            await process.wait()
    except TimeoutError:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def fate(status: int | None) -> str:
    """How a process ended, in words."""
    return f"died with signal {-status}" if status is not None and status < 0 else f"exited with status {status}"
