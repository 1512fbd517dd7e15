"""Words of a text in colours that say how they count."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from rich.text import Text

WORD = re.compile(r"\w+(?:['’-]\w+)*")


def word_highlighter(
    values: Mapping[str, float], positive: str, negative: str
) -> Callable[[str], Text]:
    """A function that styles words of positive and of negative value; case does not matter."""

    def highlight(text: str) -> Text:
        result = Text(text)
        for word in WORD.finditer(text):
            if value := values.get(word.group().lower(), 0.0):
                result.stylize(positive if value > 0 else negative, *word.span())
        return result

    return highlight
