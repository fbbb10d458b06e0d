"""A tokenizer with one token for every character, for models that are trained from random weights."""

from __future__ import annotations

from jackpot_sim.environments.language_models.library import Tokenizer, library

END = "␃"
"""The end token as the tokenizer spells it; its id is 0, and it is the padding token too."""

PRINTABLE = "\n" + "".join(map(chr, range(32, 127)))
"""The printable characters of ASCII, and the line feed."""


def character_tokenizer(characters: str) -> Tokenizer:
    """A transformers tokenizer over an alphabet: ids 1, 2, … are its characters in order, 0 is the end.

    Encoding adds no token, and decoding gives the same text back. A character outside the alphabet is an error of the
    library. The tokenizer can be saved and loaded like any other.

    Args:
        characters: the alphabet.

    Raises:
        ValueError: the alphabet is empty, holds a character twice, or holds the end token.
    """
    if not characters:
        raise ValueError("the alphabet is empty: give the characters of the texts")
    if len(set(characters)) < len(characters):
        twice = sorted({each for each in characters if characters.count(each) > 1})
        raise ValueError(f"the alphabet holds {', '.join(map(repr, twice))} more than once: give each character once")
    if END in characters:
        raise ValueError(f"the alphabet holds {END!r}, which stands for the end: leave it out")
    import tokenizers

    vocabulary = {token: at for at, token in enumerate([END, *characters])}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex(r"[\s\S]"), "isolated")
    backend.decoder = tokenizers.decoders.Fuse()
    return library().PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=END,
        pad_token=END,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
