"""Embeddings by a model on this pod: an ONNX file and its tokenizer, from a folder; nothing is downloaded.

The folder is as the hub has sentence models: `model.onnx` or `onnx/model.onnx`, `tokenizer.json`, and, where they are
there, `1_Pooling/config.json` (which vector stands for a text) and `sentence_bert_config.json` (its longest text).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module, util
from pathlib import Path
from typing import Any

import orjson

from agentrt.errors import DeclarationError, ModelError

__all__ = ["OnnxEmbedder"]

_BATCH = 8
"""Few: a question, which may take a second, waits for the batch before it."""
_TOKENS_MAX = 256
_NEEDS = ("onnxruntime", "tokenizers", "numpy")


class OnnxEmbedder:
    """Runs the model of `folder` in a thread of its own, in batches of 8 texts; `threads` are those of one batch.

    It is loaded when it is first asked, some tenths of a second. Raises `DeclarationError` where something is missing.
    """

    def __init__(self, folder: str | Path, *, threads: int = 1) -> None:
        missing = [name for name in _NEEDS if util.find_spec(name) is None]
        if missing:
            raise DeclarationError(f"OnnxEmbedder needs {', '.join(missing)}: install agentrt[onnx]")
        self._folder = Path(folder).resolve()
        self._file = next((path for path in self._files() if path.is_file()), None)
        if self._file is None or not (self._folder / "tokenizer.json").is_file():
            raise DeclarationError(f"{folder} has no model.onnx (or onnx/model.onnx) with a tokenizer.json")
        pooling = {key for key, said in self._said("1_Pooling/config.json").items() if said is True and "_mode_" in key}
        if not pooling <= {"pooling_mode_mean_tokens"} and pooling != {"pooling_mode_cls_token"}:
            raise DeclarationError(
                f"{folder} wants {', '.join(sorted(pooling))}: mean and first token are what there is"
            )
        self._first = bool(pooling - {"pooling_mode_mean_tokens"})
        self._tokens_max = int(self._said("sentence_bert_config.json").get("max_seq_length") or _TOKENS_MAX)
        self._threads = threads
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="agentrt-onnx")
        self._loaded: tuple[Any, Any] | None = None

    @property
    def name(self) -> str:
        """The folder's name: another model belongs into another folder."""
        return f"onnx/{self._folder.name}"

    async def embed(self, texts: Sequence[str]) -> Sequence[Sequence[float]]:
        """One vector a text. Raises `ModelError`."""
        loop, found = asyncio.get_running_loop(), list[Sequence[float]]()
        try:
            for start in range(0, len(texts), _BATCH):
                batch = list(texts[start : start + _BATCH])
                found += await loop.run_in_executor(self._thread, self._embedded, batch)
        except Exception as error:
            raise ModelError(f"the model of {self._folder.name}: {type(error).__name__}", retryable=False) from error
        return found

    async def aclose(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=False)

    def _files(self) -> tuple[Path, Path]:
        return self._folder / "model.onnx", self._folder / "onnx" / "model.onnx"

    def _said(self, name: str) -> dict[str, Any]:
        path = self._folder / name
        return dict(orjson.loads(path.read_bytes())) if path.is_file() else {}

    def _load(self) -> tuple[Any, Any]:
        runtime, tokenizers = import_module("onnxruntime"), import_module("tokenizers")
        options = runtime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self._threads, 1
        session = runtime.InferenceSession(str(self._file), options, providers=["CPUExecutionProvider"])
        tokenizer = tokenizers.Tokenizer.from_file(str(self._folder / "tokenizer.json"))
        tokenizer.enable_truncation(self._tokens_max)
        tokenizer.enable_padding()
        return session, tokenizer

    def _embedded(self, texts: list[str]) -> list[list[float]]:
        np = import_module("numpy")
        if self._loaded is None:
            self._loaded = self._load()
        session, tokenizer = self._loaded
        read = tokenizer.encode_batch(texts)
        mask = np.array([one.attention_mask for one in read], dtype=np.int64)
        parts = {
            "input_ids": np.array([one.ids for one in read], dtype=np.int64),
            "attention_mask": mask,
            "token_type_ids": np.array([one.type_ids for one in read], dtype=np.int64),
        }
        (states, *_) = session.run(None, {one.name: parts[one.name] for one in session.get_inputs()})
        vectors = states if states.ndim == 2 else self._pooled(states, mask[:, :, None])
        return list(vectors.tolist())

    def _pooled(self, states: Any, mask: Any) -> Any:
        """One vector a text: its first token's, or the mean of all but the padding."""
        return states[:, 0] if self._first else (states * mask).sum(axis=1) / mask.sum(axis=1).clip(min=1)
