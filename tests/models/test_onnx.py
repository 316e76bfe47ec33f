"""The embedder on the pod itself, with real little models: a table of random vectors, one a word."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy
import pytest

pytest.importorskip("onnxruntime", reason="its wheels are for Linux")

import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from agentrt.agent import Agent, Memory
from agentrt.errors import DeclarationError, ModelError
from agentrt.models import onnx as subject
from agentrt.models.onnx import OnnxEmbedder
from agentrt.store.keys import UserKeys
from tests.runtime.conftest import running

WORDS = ["[PAD]", "[UNK]", "[CLS]", "otter", "lives", "in", "porto", "boat", "a"]
TABLE = numpy.random.default_rng(1).standard_normal((len(WORDS), 8)).astype(numpy.float32)


def model(
    folder: Path, *, place: str = "model.onnx", pooled: bool = False, inputs: int = 3, table: Any = TABLE
) -> Path:
    """A folder with a model of the table; `pooled`: it gives one vector a text, its first token's."""
    names = ["input_ids", "attention_mask", "token_type_ids"][:inputs]
    asked = [helper.make_tensor_value_info(name, TensorProto.INT64, ["texts", "tokens"]) for name in names]
    nodes = [helper.make_node("Gather", ["table", "input_ids"], ["states"])]
    constants, told = [numpy_helper.from_array(table, "table")], ("states", ["texts", "tokens", 8])
    if pooled:
        constants.append(numpy_helper.from_array(numpy.array(0, dtype=numpy.int64), "first"))
        nodes.append(helper.make_node("Gather", ["states", "first"], ["vectors"], axis=1))
        told = ("vectors", ["texts", 8])
    output = helper.make_tensor_value_info(told[0], TensorProto.FLOAT, told[1])
    graph = helper.make_graph(nodes, "table", asked, [output], constants)
    (folder / place).parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), folder / place)
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", 2)])
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def mean(*words: str) -> list[float]:
    return list(TABLE[[WORDS.index(word) for word in ("[CLS]", *words)]].mean(axis=0))


async def test_the_mean_of_a_texts_tokens_whatever_stands_beside_it(tmp_path: Path) -> None:
    """Padding is in no vector; more texts than a batch come back in their order."""
    embedder = OnnxEmbedder(model(tmp_path / "tiny"))
    assert embedder.name == "onnx/tiny"
    assert await embedder.embed([]) == []
    texts = ["otter", "otter lives in porto", "zebra"] * 15
    found = await embedder.embed(texts)
    wanted = [mean("otter"), mean("otter", "lives", "in", "porto"), mean("[UNK]")] * 15
    assert numpy.allclose(found, wanted, atol=1e-6)
    assert numpy.allclose(await embedder.embed(["otter"]), [mean("otter")], atol=1e-6)
    await embedder.aclose()


async def test_what_the_folder_says_of_pooling_and_length(tmp_path: Path) -> None:
    folder = model(tmp_path, place="onnx/model.onnx", inputs=1)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling/config.json").write_text(json.dumps({"pooling_mode_cls_token": True}))
    assert numpy.allclose(await OnnxEmbedder(folder).embed(["otter", "a boat"]), [TABLE[2]] * 2)
    (folder / "1_Pooling/config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 3}))
    found = await OnnxEmbedder(folder).embed(["otter lives in porto"])
    assert numpy.allclose(found, [mean("otter", "lives")], atol=1e-6)


async def test_a_model_that_pools_by_itself(tmp_path: Path) -> None:
    assert numpy.allclose(await OnnxEmbedder(model(tmp_path, pooled=True)).embed(["otter", "a boat"]), [TABLE[2]] * 2)


async def test_the_loop_goes_on_meanwhile(tmp_path: Path) -> None:
    """Loading and running are a thread's."""
    embedder, turns = OnnxEmbedder(model(tmp_path)), 0
    work = asyncio.create_task(embedder.embed(["otter lives in porto " * 60] * 64))
    while not work.done():
        turns += 1
        await asyncio.sleep(0)
    assert turns > 10
    assert len(await work) == 64


def test_what_is_missing_is_said_where_it_is_declared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in ("nowhere", ""):
        with pytest.raises(DeclarationError, match=r"has no model\.onnx"):
            OnnxEmbedder(tmp_path / path)
    model(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(DeclarationError, match=r"with a tokenizer\.json"):
        OnnxEmbedder(tmp_path)
    model(tmp_path)
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling/config.json").write_text(json.dumps({"pooling_mode_max_tokens": True}))
    with pytest.raises(DeclarationError, match=r"wants pooling_mode_max_tokens"):
        OnnxEmbedder(tmp_path)
    monkeypatch.setattr(subject, "_NEEDS", ("numpy", "not_there"))
    with pytest.raises(DeclarationError, match=r"needs not_there: install agentrt\[onnx\]"):
        OnnxEmbedder(tmp_path)


async def test_a_file_that_is_no_model(tmp_path: Path) -> None:
    (model(tmp_path) / "model.onnx").write_bytes(b"not a model")
    with pytest.raises(ModelError) as told:
        await OnnxEmbedder(tmp_path).embed(["otter"])
    assert not told.value.retryable


async def test_recall_by_it(redis_url: str, tmp_path: Path) -> None:
    """What shares no word with the question is found by its vector."""
    table = TABLE.copy()
    table[WORDS.index("boat")] = table[WORDS.index("otter")]  # synonyms, to this model
    memory = Memory(facts=False, summary=False, embedder=OnnxEmbedder(model(tmp_path, table=table)))
    async with running(redis_url, [Agent("keeper", model="scripted:echo", memory=memory)]) as runtime:
        user = UserKeys("dev", "u1")
        for said in ("otter lives in porto", "in a porto"):
            await runtime.turn("keeper", said, user="u1")
        async with asyncio.timeout(20):
            while len(await runtime.services.users.vectors(user, [1, 2])) < 2:
                await asyncio.sleep(0.02)
        found = await runtime.surface.people.search(user, "boat", 2, 0)
    assert found["turns"][0]["text"] == "otter lives in porto", found
