"""THE SCHEMA, version 2: every key that agentrt keeps in Redis.

A pod knows this version and the one before, and works on each session in that session's own. Which one new sessions
get, and idle ones are brought to by their next turn, is the deployment's: `agentrt schema bump`. In version 1 a run
keeps its `input` for good, and has no `asked`.

`t` is the tenant, `s` the session, `q` the number of the queue. The braces are Redis hash tags: what stands in them
decides the Cluster slot, so all keys of one line group live on one node. No script touches two groups.

Session slot `{t/s}`; everything is written under the owner's fence unless it says otherwise. All keys live for the
session TTL (`AGENTRT_SESSION_TTL_S`) from the last begin, commit or append, and go at once with `delete.lua`; those of
a session that is for one run only (chat completions, `store: false`) for `AGENTRT_ALONE_TTL_S`.

  agentrt:{t/s}                 HASH   the session's header                          begin commit claim append create
      v            schema version                             tenant, user   who owns the data
      agent        the agent of the newest run                created, updated   ms since the epoch, Redis time
      rev          bumped by every commit, append, delete      seq            number of items ever written = LLEN items
      owner, pod   token and pod of the owner; empty when idle  fence         last fence minted; never expires alone
      run, run_fp  the active run; its fingerprint and those   head           the newest committed run
                   of the messages that steered it, comma list
      waiters      JSON [[run, token, fp, pod, present 0/1, until ms], ...], first in first out; empty for none
      last_run, last_fp, last_end   the run that ended last, its fingerprints, when (ms)
      steers       JSON [JSON array of items, ...]: messages for the active run to take in; with the run while it
                   waits to be resumed                                                      steer commit begin
      alone        1: the session is for one run, no other message can name it                        begin
      summary      JSON [up to number, [[level, from, to, text], ...]] of what was said before  summarize erase_item
      gone         how many items were deleted: a summary that was begun before is refused             erase_item
      metadata     JSON object of the client                   create_op, append_op   op tokens of those scripts
      appends      JSON [[op, number, digest], ...] of the newest appends with an Idempotency-Key           append
      doubts       JSON [[effect key, run, tool, tell|block], ...] whose outcome is not known     record resolve
      notes        JSON [[text before, after the number], ...]: items for the next run to take in  resolve begin
      approvals    JSON [[id of the request, run, effect key], ...] for the next input to answer    commit begin
  agentrt:{t/s}:items           LIST   history, append only; index = item number; an empty string where an item was
                                       deleted or never finished; complete turns only  commit append create copy
  agentrt:{t/s}:runs            LIST   ids of the session's runs, for deletion and the operator: it outlives the
                                       session by as long as a deletion takes      begin steer delete_left
  agentrt:{t/s}:run:{id}        HASH   one run; also its idempotency record. TTL from commit on: the session's, and
                                       at least 24 h                               begin plan record commit cancel
      status       waiting | running | completed | failed | incomplete | cancelled
      fp           fingerprint of principal and body          token, fence   of the attempt that owns it
      request      JSON, what the client asked for             input          JSON array of items; gone once the history
                                                                              has them and the run cannot be resumed
      asked        how many of its items were its input, where `input` is gone
      first        number of the run's first item              n_items        how many items it added
      attempt      1, 2, ...                                   pod            the pod of the last attempt
      created, ended   ms                                      cancel         1 | rollback when somebody asked to
      into         the run that this message was given to (status `steered`: it never was a run)          steer
      log          last event number written, -1 for none      followers      pods that tail the log, comma list
       approvals    what this run's input answers, taken over from the session   forked  1: its message is a fork's
       spared       attempts that do not count (handed over,    over           token of the owner that let go last
                    or before its sender asked for it anew)
      result       JSON, the final response body               retry          1: failed, but sending it again resumes
      plan:<step>  JSON, the model's reply and the keys of its effects
      op:<token>   reply of a script of this run, kept so that sending the script again is harmless
  agentrt:{t/s}:run:{id}:effects HASH  journal                                           plan record intend unintend
      <key>        JSON, the effect as planned                 <key>@         `lock_until ms,holder token`: intended
      <key>!       JSON, the outcome: recorded | failed | in_doubt
      <key>~       JSON, a late result of a pod that had lost the run: evidence, decides nothing       evidence
      <key>=       JSON, what became of an effect in doubt                                             resolve
  agentrt:{t/s}:run:{id}:events STREAM event log, one entry a batch: id = last number of the batch + 1 (numbers start
                                       at 0, stream ids may not), field `e` = JSON frames, one a line. TTL
                                       `AGENTRT_EVENTS_TTL_S`                               emit plan record commit

Lock slot `{t/lock:h}`; h = SHA-256 of the lock's name, in hex. Shared by all sessions of the tenant. With
`AGENTRT_LOCK_REDIS_URLS` the key is on each of those Redis, without a line; else on the state Redis.

  agentrt:{t/lock:h}            HASH   a named lock. TTL from the last acquire, renewal or hand-on: 60 s or two lock
                                       times, an hour on a quorum (how long a fence from another node's clock is known
                                       there); a key that went is no harm to the fence
                                                              lock_acquire lock_renew lock_release lock_raise
      holder       token of whoever has it; absent when free   until          its deadline, ms
      fence        last fence minted, never below Redis time in µs: it grows even when the key was gone
      line         JSON [[token, pod, last asked ms], ...], first in first out, bounded; empty or absent for none

User slot `{t/u:user}`: what is remembered of one user, across sessions. All keys live for `AGENTRT_MEMORY_TTL_S` from
the last write, and go with an erasure, of which the hash keeps nothing but the new generation.

  agentrt:{t/u:user}            HASH   the head                                                 user_*
      gen          generation: Redis time in us at its creation or erasure; work of an older one is refused
      frev         revision of the facts                      profile        JSON, the facts that a turn is given
      mseq         number of memories ever written             epoch          bumped when memories went or changed
      left         facts that hold and are not in the profile
      erased       ms, when an erasure began; absent before    op             op token of the last write of facts
  agentrt:{t/u:user}:facts      HASH   fact id -> JSON, see memory/facts.py                             user_resolve
  agentrt:{t/u:user}:memories   HASH   number -> JSON, a raw turn or a summary, and its terms
                                                                                 user_remember user_recap user_forget
  agentrt:{t/u:user}:vectors    HASH   number -> its embedding, float16                         user_vectors user_forget
  agentrt:{t/u:user}:sources    HASH   item id -> number of its memory, 0: it was forgotten, and is not remembered any
                                       more                                      user_remember user_recap user_forget
  agentrt:{t/u:user}:pending    HASH   item id -> JSON [number, tries, reason]: facts not drawn yet
                                                                  user_remember user_resolve user_retry user_forget
  agentrt:{t/u:user}:sessions   HASH   session -> ms of the last greeting, for erasure and export           user_greet

Queue slot `{q:N}`:

  agentrt:{q:N}:leases          ZSET   member tenant/session/run/owner-token, score = deadline in ms, Redis time.
                                       No TTL: an entry goes when its run ends, or to `ready` when its time is over; one
                                       of a waiter, or of a run with an open intent, comes back by itself
                                                                      lease renew watch take sweep enqueue park
  agentrt:{q:N}:ready           ZSET   the same members: runs that wait for a pod, score = class * 2^48 + fair tag, see
                                       queue.lua. No TTL: an entry goes when it is taken      enqueue sweep take renew
  agentrt:{q:N}:since           ZSET   the same members, score = ms since when they wait; lives and goes with `ready`
  agentrt:{q:N}:tags            HASH   `<class>:<tenant>` the tenant's last tag, gone with its last entry;
                                       `<class>:` the tag taken last. Deleted when `ready` is empty       enqueue take
  agentrt:{q:N}:takes           HASH   pod -> JSON [op token, members, ms] of its last take; TTL 60 s, entries
                                       of pods that took nothing for so long go with the next new pod's        take
  agentrt:{q:N}:dead            HASH   tenant/session/run -> JSON {reason, agent, attempts, pod, at ms}. No TTL: the
                                       operator owns it (`agentrt queue dead`)                           bury
  agentrt:{q:N}:jobs            ZSET   job -> ms from when on it may be taken; one that is worked on: end of its lease.
                                       No TTL: goes when done or buried        finish job_take job_done job_fail
  agentrt:{q:N}:later           ZSET   job -> ms from when on it is to be among `jobs`: what retention asks for. No TTL:
                                       goes when it is due, or with its user             ZADD job_take
  agentrt:{q:N}:marks           HASH   job -> grows when it is asked for, `<job>#` -> how often taken; goes with the job
  agentrt:{q:N}:paces           HASH   tenant -> ms of its last job's turn; TTL 60 s                            finish
  agentrt:{q:N}:buried          HASH   job -> JSON {reason, tries, at ms}. No TTL: the operator owns it       job_fail
  agentrt:{q:N}:doubts          ZSET   member tenant/session/run/effect key, score = since when, ms: where an effect
                                       may be in doubt; the journal says whether it is. TTL: twice the sessions'
                                       from the last entry; whoever lists it drops what is resolved or gone
  agentrt:{q:N}:config          HASH   number of queues, checked at every start; no TTL: the deployment owns it

Quota slot `{t/quota}`; only for tenants that have a limit:

  agentrt:{t/quota}:used        HASH   minute, turns (begun in it), day, tokens (used in it); minute and day are numbers
                                       since the epoch. TTL two days                        quota_enter quota_leave
  agentrt:{t/quota}:runs        ZSET   member session/run: runs in flight, score = until when they count, ms. TTL ten
                                       minutes from the last entry                quota_enter quota_hold quota_leave

Access slot `{access}`; no TTL: the operator owns it (`agentrt keys`)                                   access_set

  agentrt:{access}:keys         HASH   id -> JSON {tenant, digest, scopes, created}: API keys
  agentrt:{access}:quotas       HASH   tenant -> JSON {runs, turns_per_minute, tokens_per_day}
  agentrt:{access}:rev          STRING changes with every change of the two

Pod-owned keys:

  agentrt:{pods}:live           HASH   pod -> `ms since the epoch, newline, JSON that the pod says of itself`; TTL and
                                       every entry 10 s                                                 pod_seen
  agentrt:{pods}:schema         HASH   writes: the schema version that is written; bumped: when it was raised, ms. No
                                       TTL: the operator owns it (`agentrt schema`)          pod_seen schema_bump
  agentrt:{q:0}:probe:<pod>     STRING what the readiness probe writes and reads, where the queue is; TTL 60 s
  agentrt:pod:<pod>             pub/sub channel: JSON [granted | logged | cancel | steer, session, run] or
                                [lock, key of the lock, token that it was handed to]; a hint only, polls stand behind it
  agentrt:users                 pub/sub channel: tenant/user that was erased; caches are checked by generation anyway
  agentrt:queue:<N>             pub/sub channel: something waits in an empty queue; a hint only
"""

from __future__ import annotations

import hashlib
import re
import secrets
from functools import cached_property

from agentrt.store.slots import Slot

__all__ = [
    "ID",
    "AccessKeys",
    "LockKeys",
    "QueueKeys",
    "QuotaKeys",
    "RunKeys",
    "SessionKeys",
    "UserKeys",
    "derive_id",
    "is_id",
    "is_name",
    "lease_member",
    "new_id",
    "parse_lease_member",
    "pod_channel",
    "pods_key",
    "probe_key",
    "schema_key",
    "users_channel",
]

_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ID_LENGTH = 22
ID = re.compile(rf"[0-9A-Za-z]{{{_ID_LENGTH}}}")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


_PAIRS = [high + low for high in _BASE62 for low in _BASE62]


def _base62(number: int) -> str:
    """22 digits. In two halves below 2^72 and two digits at a time: three ids a turn are worth it."""
    high, low = divmod(number, 62**12)
    digits = []
    for half, pairs in ((low, 6), (high, 5)):
        for _ in range(pairs):
            half, pair = divmod(half, 62 * 62)  # noqa: PLW2901
            digits.append(_PAIRS[pair])
    return "".join(reversed(digits))


def new_id() -> str:
    """A random session, run or token id: 128 bits in 22 characters of base62."""
    return _base62(secrets.randbits(128))


def derive_id(*parts: str) -> str:
    """The id that belongs to `parts`: the first 128 bits of their SHA-256, length-prefixed so that none can shift."""
    digest = hashlib.sha256()
    for part in parts:
        raw = part.encode()
        digest.update(b"%d:" % len(raw) + raw)
    return _base62(int.from_bytes(digest.digest()[:16], "big"))


def is_id(text: str) -> bool:
    """Whether `text` can be a session or run id of ours."""
    return ID.fullmatch(text) is not None


def is_name(text: str) -> bool:
    """Whether `text` may be a tenant or a user."""
    return _NAME.fullmatch(text) is not None


class RunKeys:
    """The keys of one run, in its session's slot."""

    __slots__ = ("effects", "events", "hash", "id")

    def __init__(self, session: bytes, run: str) -> None:
        self.id = run
        self.hash = b"%b:run:%b" % (session, run.encode())
        self.effects = self.hash + b":effects"
        self.events = self.hash + b":events"


class SessionKeys:
    """The keys of one session. Both parts were checked before: nothing else may reach a key."""

    def __init__(self, tenant: str, session: str) -> None:
        if not is_name(tenant) or not is_id(session):
            raise ValueError(f"not a tenant and session: {tenant!r}, {session!r}")
        self.tenant = tenant
        self.id = session
        self.tag = Slot(f"{tenant}/{session}".encode(), tenant)
        self.hash = b"agentrt:{%b}" % self.tag

    @cached_property
    def items(self) -> bytes:
        return self.hash + b":items"

    @cached_property
    def runs(self) -> bytes:
        return self.hash + b":runs"

    def run(self, run: str) -> RunKeys:
        """The keys of one of the session's runs."""
        return RunKeys(self.hash, run)


class LockKeys:
    """The key of one named lock of a tenant. The name may be anything: only its hash gets into the key."""

    __slots__ = ("hash", "name", "tag")

    def __init__(self, tenant: str, name: str) -> None:
        if not is_name(tenant):
            raise ValueError(f"not a tenant: {tenant!r}")
        self.name = name
        digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()
        self.tag = Slot(f"{tenant}/lock:{digest}".encode(), tenant)
        self.hash = b"agentrt:{%b}" % self.tag


class UserKeys:
    """The keys of one user of a tenant. Both parts were checked before: nothing else may reach a key."""

    __slots__ = ("facts", "hash", "memories", "pending", "sessions", "sources", "tag", "tenant", "user", "vectors")

    def __init__(self, tenant: str, user: str) -> None:
        if not is_name(tenant) or not is_name(user):
            raise ValueError(f"not a tenant and user: {tenant!r}, {user!r}")
        self.tenant = tenant
        self.user = user
        self.tag = Slot(f"{tenant}/u:{user}".encode(), tenant)
        self.hash = b"agentrt:{%b}" % self.tag
        self.facts = self.hash + b":facts"
        self.memories = self.hash + b":memories"
        self.vectors = self.hash + b":vectors"
        self.sources = self.hash + b":sources"
        self.pending = self.hash + b":pending"
        self.sessions = self.hash + b":sessions"


class QueueKeys:
    """The keys of one queue slot."""

    __slots__ = (
        "buried",
        "channel",
        "config",
        "dead",
        "doubts",
        "jobs",
        "later",
        "leases",
        "marks",
        "number",
        "paces",
        "ready",
        "since",
        "slot",
        "tags",
        "takes",
    )

    def __init__(self, number: int = 0) -> None:
        self.number = number
        self.slot = b"q:%d" % number
        head = b"agentrt:{%b}:" % self.slot
        self.leases = head + b"leases"
        self.ready = head + b"ready"
        self.since = head + b"since"
        self.tags = head + b"tags"
        self.takes = head + b"takes"
        self.dead = head + b"dead"
        self.doubts = head + b"doubts"
        self.jobs = head + b"jobs"
        self.later = head + b"later"
        self.marks = head + b"marks"
        self.paces = head + b"paces"
        self.buried = head + b"buried"
        self.config = head + b"config"
        self.channel = f"agentrt:queue:{number}"


class QuotaKeys:
    """The keys of what a tenant uses of its quota."""

    __slots__ = ("runs", "slot", "used")

    def __init__(self, tenant: str) -> None:
        if not is_name(tenant):
            raise ValueError(f"not a tenant: {tenant!r}")
        self.slot = Slot(f"{tenant}/quota".encode(), tenant)
        self.used = b"agentrt:{%b}:used" % self.slot
        self.runs = b"agentrt:{%b}:runs" % self.slot


class AccessKeys:
    """The keys of what operators allow."""

    slot = b"access"
    keys = b"agentrt:{access}:keys"
    quotas = b"agentrt:{access}:quotas"
    rev = b"agentrt:{access}:rev"


def lease_member(session: SessionKeys, run: str, token: str) -> bytes:
    """The lease entry of an owner."""
    return b"%b/%b/%b" % (session.tag, run.encode(), token.encode())


def parse_lease_member(member: bytes) -> tuple[str, str, str, str]:
    """(tenant, session, run, owner token) of a lease entry."""
    tenant, session, run, token = member.decode().split("/")
    return tenant, session, run, token


def probe_key(pod: str) -> bytes:
    """What the readiness probe of a pod writes and reads."""
    return b"agentrt:{%b}:probe:%b" % (QueueKeys().slot, pod.encode())


def pods_key() -> bytes:
    """What the live pods say of themselves."""
    return b"agentrt:{pods}:live"


def schema_key() -> bytes:
    """Which version of the schema is written."""
    return b"agentrt:{pods}:schema"


def pod_channel(pod: str) -> str:
    """The pub/sub channel of a pod."""
    return f"agentrt:pod:{pod}"


def users_channel() -> str:
    """The pub/sub channel of erasures."""
    return "agentrt:users"
