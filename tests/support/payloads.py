"""Texts that a page, a terminal or a file format could take for its own; in a browser, any that runs sets ``window.hit``."""

from __future__ import annotations

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from support.models import VOCABULARY

__all__ = ["BETWEEN", "HALVES", "PAYLOADS", "tokenizer_of_payloads"]

PAYLOADS = (
    "</script><script>window.hit=1</script>",
    "<img src=x onerror=window.hit=1>",
    "<img/src=x/onerror=window.hit=1><svg/onload=window.hit=1>",
    "<!--<script>",
    "--><svg onload=window.hit=1>",
    'render(\n  "x", CircuitsVis.render("x", CircuitsVis.ColoredTokens, 0)\n)',
    '"});window.hit=1;//',
    "');window.hit=1;//",
    "`${window.hit=1}`",
    "{{7*7}}",
    "{% raw %}{# x #}",
    "a\u2028window.hit=1\u2029b\u0085c",
    "\\u003cimg src=x onerror=window.hit=1\\u003e\\",
    "<b>bold</b><br>",
    '<a href="javascript:window.hit=1">link</a>',
    "<style>*{display:none}</style>",
    "<base href='//evil.invalid'><meta http-equiv=refresh content='0;url=x'>",
    "</title></textarea></main><iframe srcdoc='<script>parent.hit=1</script>'>",
    "%{x} %{y:.3f} %{customdata[0]}",
    "$x^2$ \\(y\\) & # _a_ ~",
    "&lt;i&gt; &#60;i&#62; &amp;",
    "\x01\x1b[2J\x07\r\x7f\x9b\ufffe",
    "[/b][bold] [k k^T] :cat:",
    "| a | b |\n\n`c` ]]>",
    "[x](javascript:window.hit=1) **y**",
    "* -- \"quoted\" 'text'",
)
"""Well-formed texts, as a tokenizer can have them."""

HALVES = ("\ud800", "a\udfffb")
"""Halves of surrogate pairs, which come from files and arguments; no tokenizer has them, and UTF-8 cannot write them."""

BETWEEN = "\u00a6"
"""What stands between two tokens of a text."""


def tokenizer_of_payloads() -> PreTrainedTokenizerFast:
    """A tokenizer whose words are payloads, then ``"w25"`` and so on; the last three are unknown, end and padding."""
    words = {word: i for i, word in enumerate([*PAYLOADS, *(f"w{i}" for i in range(len(PAYLOADS), VOCABULARY))])}
    plain = Tokenizer(models.WordLevel(words, unk_token="w59"))
    plain.pre_tokenizer = pre_tokenizers.Split(BETWEEN, "removed")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, eos_token="w57", pad_token="w58", clean_up_tokenization_spaces=False)
    tokenizer.add_tokens(list(PAYLOADS))  # found wherever they stand in a text
    return tokenizer
