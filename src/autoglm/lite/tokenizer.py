"""Byte-level BPE of 16,384 entries, trained on equal bytes of Chinese and English.

Run as `python -m autoglm.lite.tokenizer --data DIR --out tokenizer.json`.
"""

import argparse
import random
from collections.abc import Iterator
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from autoglm.errors import InvalidRequestError
from autoglm.lite.sources import TEXT_SOURCES, Lang, read_documents

VOCAB_SIZE = 16_384
END, MASK, SOP = "<|endoftext|>", "[gMASK]", "<sop>"
SYSTEM, USER, ASSISTANT, OBSERVATION = "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"
SPECIALS = (END, MASK, SOP, SYSTEM, USER, ASSISTANT, OBSERVATION)
EOS_TOKENS = (END, USER, OBSERVATION)

CHAT_TEMPLATE = (
    "[gMASK]<sop>"
    "{%- for message in messages -%}"
    "{{ '<|' + message['role'] + '|>\\n' + message['content'] }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|assistant|>\\n' }}{%- endif -%}"
)

# One digit at a time; Han runs apart from other scripts; a word takes its leading space with it.
_SPLIT = (
    r"\p{N}"
    r"|\p{Han}+"
    r"|['’](?:[stmd]|re|ve|ll)(?!\p{L})"
    r"| ?[^\s\p{N}\p{Han}\p{P}\p{S}]+"
    r"| ?[\p{P}\p{S}]+"
    r"|\n+"
    r"|[^\S\n]+(?!\S)"
    r"|[^\S\n]"
)
_MAX_HAN_RUN = 12


def token_id(tokenizer: Tokenizer, token: str) -> int:
    """Id of a special token; InvalidRequestError when the tokenizer lacks it."""
    found = tokenizer.token_to_id(token)
    if found is None:
        message = f"the tokenizer has no token {token}; train it with autoglm.lite.tokenizer"
        raise InvalidRequestError(message)
    return found


def train_tokenizer(texts: Iterator[str], vocab_size: int = VOCAB_SIZE) -> Tokenizer:
    """Train on `texts`; every byte has a token, so any text round-trips."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIALS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=_MAX_HAN_RUN * 3,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def sample_texts(data_dir: Path, lang: Lang, num_bytes: int, rng: random.Random) -> Iterator[str]:
    """Random excerpts of every corpus of a language, in proportion to its sampling weight."""
    sources = [source for source in TEXT_SOURCES if source.lang == lang]
    total = sum(source.weight for source in sources)
    for source in sources:
        budget = int(num_bytes * source.weight / total)
        for document in read_documents(data_dir, source):
            start = rng.randrange(max(1, len(document) - 2000))
            excerpt = document[start : start + 2000]
            yield excerpt
            budget -= len(excerpt.encode())
            if budget <= 0:
                break


def main() -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sample-mb", type=float, default=11.0, help="per language")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    size = int(args.sample_mb * 1e6)
    langs: tuple[Lang, ...] = ("zh", "en")
    texts = (text for lang in langs for text in sample_texts(args.data, lang, size, rng))
    tokenizer = train_tokenizer(texts)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(args.out))


if __name__ == "__main__":
    main()
