"""The alphabet of array dimensions: one letter per axis, the same everywhere.

The suffix of a variable (`x_BTD`), of a parameter (`q_DNH`), the letters of an einsum
and the keys of the sharding rules are all drawn from this table.
"""

import contextlib
import contextvars

ALPHABET = {
    "B": "batch",
    "T": "query or target position",
    "S": "key or source position",
    "L": "layer",
    "D": "model width",
    "F": "feed-forward width",
    "N": "query heads",
    "K": "key/value heads",
    "G": "query heads per key/value head",
    "H": "head width",
    "V": "vocabulary",
    "E": "experts",
    "C": "expert capacity",
    "R": "LoRA rank",
    "P": "image patches",
    "I": "image channels * pixels of a patch",
    "A": "samples per prompt",
    "M": "width of the layer before a head",
    "O": "outputs of a head of classes",
    "U": "buckets of relative positions",
    "Y": "token types",
}

_checking = contextvars.ContextVar("llmjax_dims_checking", default=False)


def parse(name: str) -> str:
    """The dimension letters of a name: `parse("q_bias_NH") == "NH"`.

    Raises ValueError when the name has no suffix, or a letter is not in `ALPHABET`.
    """
    _, underscore, letters = name.rpartition("_")
    if not underscore or not letters.isupper() or not letters.isalpha():
        raise ValueError(
            f"{name!r} does not end in dimension letters; write e.g. 'q_DNH'"
        )
    unknown = [letter for letter in letters if letter not in ALPHABET]
    if unknown:
        raise ValueError(
            f"{name!r}: unknown dimension {unknown[0]!r}; known: {''.join(ALPHABET)}"
        )
    return letters


def split_matrix(name: str) -> tuple[str, str]:
    """The letters that a matrix reads and those that it writes: ("D", "NH") of "q_DNH".

    One that begins with D or R reads just that; the others write their last letter.
    """
    letters = parse(name)
    num_inputs = 1 if letters[0] in "DR" else len(letters) - 1
    return letters[:num_inputs], letters[num_inputs:]


@contextlib.contextmanager
def checking():
    """Inside this context `check` compares shapes; outside it costs nothing."""
    token = _checking.set(True)
    try:
        yield
    finally:
        _checking.reset(token)


def check(**arrays) -> None:
    """Raises ValueError unless each letter has one size over all arrays.

    `check(q_BTNH=q, k_BSKH=k)` says which two arrays disagree. Arrays that are None
    are passed over. Does nothing outside `checking()`.
    """
    if not _checking.get():
        return
    seen = {}
    for name, array in arrays.items():
        if array is None:
            continue
        letters = parse(name)
        if len(letters) != array.ndim:
            raise ValueError(f"{name} has rank {array.ndim}, shape {array.shape}")
        for letter, size in zip(letters, array.shape, strict=True):
            other, expected = seen.setdefault(letter, (name, size))
            if size != expected:
                raise ValueError(
                    f"{letter} ({ALPHABET[letter]}) is {size} in {name} but "
                    f"{expected} in {other}"
                )
