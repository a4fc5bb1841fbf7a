"""Write the .mo file beside every .po file: run it after each change of a translation.

Both are kept in the repository, so that a package can be built without Babel.
tests/unit/test_language.py shows that they say the same and that nothing is left untranslated.
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po

from tuppence.language import LOCALE_DIRECTORY


def compiled(po_path: Path) -> bytes:
    """Return the content of the .mo file that belongs to a .po file."""
    with po_path.open("rb") as file:
        catalogue = read_po(file, abort_invalid=True)
    mo_file = BytesIO()
    write_mo(mo_file, catalogue)
    return mo_file.getvalue()


def main() -> None:
    """Compile the catalogues of all languages."""
    for po_path in sorted(LOCALE_DIRECTORY.rglob("*.po")):
        po_path.with_suffix(".mo").write_bytes(compiled(po_path))


if __name__ == "__main__":
    main()
