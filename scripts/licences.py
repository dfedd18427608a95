"""Writes a package's copyright file: the licence of everything that its bill of materials lists, with the texts that come with it.

    licences.py BILL.cdx.json

The texts are those of the crates themselves, as cargo has unpacked them. The Apache licence is named and not repeated: Debian
has it in /usr/share/common-licenses.
"""

import json
import pathlib
import re
import subprocess
import sys
import textwrap

TEXT = re.compile(r"^(licen[cs]e|copying|copyright|notice)", re.IGNORECASE)
# Not what is chosen where there is a choice.
LEFT_OUT = ("GNU GENERAL PUBLIC LICENSE", "GNU LESSER GENERAL PUBLIC LICENSE")
HEAD = """\
colcrypt is column encryption for PostgreSQL.

Copyright: the authors of colcrypt
Licence: Apache-2.0, whose text is in /usr/share/common-licenses/Apache-2.0

It has these libraries in it, each under the licence named here. Where that is
a choice, Apache-2.0 was chosen if it is one of them, otherwise MIT.
"""


def texts_of(folder):
    """What a crate says of its licence, in its own words, but for the Apache licence's text."""
    for file in sorted(folder.iterdir()):
        if file.is_file() and TEXT.match(file.name):
            text = file.read_text(errors="replace").strip()
            apache = "TERMS AND CONDITIONS FOR USE, REPRODUCTION" in text
            if text and not apache and not any(words in text for words in LEFT_OUT):
                yield "\n".join(line.rstrip() for line in text.splitlines())


def main():
    """Prints the file; fails where a library has no licence."""
    bill = json.loads(pathlib.Path(sys.argv[1]).read_text())
    metadata = json.loads(subprocess.run(
        ["cargo", "metadata", "--format-version", "1", "--locked"], check=True, capture_output=True, text=True,
    ).stdout)
    crates = {(crate["name"], crate["version"]): crate for crate in metadata["packages"]}
    print(HEAD)
    users = {}
    for name, version in sorted((c["name"], c["version"]) for c in bill["components"]):
        crate = crates[(name, version)]
        if crate["source"] is None:
            continue
        licence = crate["license"] or sys.exit(f"error: {name} {version} has no licence")
        print(textwrap.fill(f"{name} {version}: {licence}", 76, initial_indent="  ", subsequent_indent="      "))
        for text in texts_of(pathlib.Path(crate["manifest_path"]).parent):
            users.setdefault(text, []).append(name)
    for text, names in users.items():
        print("\n" + "-" * 76)
        print(textwrap.fill(", ".join(dict.fromkeys(names)), 76) + ":\n")
        print(text)


main()
