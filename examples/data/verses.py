"""Writes verses.en.xz and verses.es.xz, the 31,084 verses that the Bibles of 1611 and 1909 both have, line beside line.

    apt-get download sword-text-kjv sword-text-sparv        # Debian's packages; both texts are in the public domain
    dpkg-deb -x sword-text-kjv_*.deb sword && dpkg-deb -x sword-text-sparv_*.deb sword
    pip install pysword
    python examples/data/verses.py sword/usr/share/sword

The English text is the King James Version, the Spanish one the Reina Valera of 1909.
"""

import argparse
import lzma
from pathlib import Path

from pysword.modules import SwordModules

BIBLES = {"en": "engKJV2006eb", "es": "spaRV1909eb"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sword", help="the folder with mods.d and modules")
    modules = SwordModules(parser.parse_args().sword)
    modules.parse_modules()
    texts = [verses(modules.get_bible_from_module(name)) for name in BIBLES.values()]
    both = [pair for pair in zip(*texts, strict=True) if all(pair)]
    for language, lines in zip(BIBLES, zip(*both, strict=True), strict=True):
        packed = lzma.compress("".join(f"{line}\n" for line in lines).encode(), preset=9)
        Path(__file__).with_name(f"verses.{language}.xz").write_bytes(packed)
    print(f"{len(both)} verses in {', '.join(BIBLES)}")


def verses(bible) -> list[str]:
    """The text of each verse, in the order of the books."""
    books = [book for part in bible.get_structure().get_books().values() for book in part]
    places = [
        (book.name, chapter, verse)
        for book in books
        for chapter, count in enumerate(book.chapter_lengths, 1)
        for verse in range(1, count + 1)
    ]
    return [" ".join(bible.get(books=[b], chapters=[c], verses=[v], clean=True).split()) for b, c, v in places]


if __name__ == "__main__":
    main()
