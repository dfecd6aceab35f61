"""Tests that no two source files use each other, nor any chain of them, parents and their children excepted.

A file that is used by what it uses cannot be read, or moved, alone. What two files need of each other
belongs into a third.
"""

import pathlib
import re
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


class Crate:
    """The files of a crate by module path, and who uses whom."""

    def __init__(self, source):
        self.files = {}
        for file in source.rglob("*.rs"):
            parts = list(file.relative_to(source).with_suffix("").parts)
            if "tests" in parts or "bin" in parts:
                continue
            if parts[-1] == "mod":
                parts.pop()
            self.files[() if parts in (["lib"], ["main"]) else tuple(parts)] = file
        self.uses = {module: self.used_by(module) for module in self.files}

    def used_by(self, module):
        text = re.sub(r"//.*", "", self.files[module].read_text())
        text = re.sub(r"#\[cfg\(test\)\]\s*mod \w+ \{.*", "", text, flags=re.S)
        # What a name at the beginning of a path stands for.
        names = {child[-1]: child for child in self.files if child and child[:-1] == module}
        paths = []
        for item in re.findall(r"^\s*(?:pub(?:\([^)]*\))? )?use ([^;]+);", text, re.M):
            for path in members(" ".join(item.split())):
                found = self.find(module, path.split("::"), names)
                paths.append(found)
                if found and path.split("::")[-1] == found[-1]:
                    names[found[-1]] = found
        for path in re.findall(r"\b(\w+(?:::\w+)+)", text):
            paths.append(self.find(module, path.split("::"), names))
        related = lambda other: module[: len(other)] == other or other[: len(module)] == module
        return {path for path in paths if path and not related(path)}

    def find(self, module, path, names):
        """The file that a path leads to, if any."""
        first = path.pop(0)
        if first == "crate":
            found = ()
        elif first == "self":
            found = module
        elif first == "super":
            found = module[:-1]
            while path and path[0] == "super":
                path.pop(0)
                found = found[:-1]
        elif first in names:
            found = names[first]
        else:
            return None
        while path and found + (path[0],) in self.files:
            found += (path.pop(0),)
        return found

    def circles(self):
        """Groups of files that use one another (Tarjan's strongly connected components)."""
        index, low, stack, groups = {}, {}, [], []

        def visit(module):
            index[module] = low[module] = len(index)
            stack.append(module)
            for used in self.uses[module]:
                if used not in index:
                    visit(used)
                    low[module] = min(low[module], low[used])
                elif used in stack:
                    low[module] = min(low[module], index[used])
            if low[module] == index[module]:
                at = stack.index(module)
                group = stack[at:]
                del stack[at:]
                if len(group) > 1:
                    groups.append(sorted("::".join(member) for member in group))

        for module in self.uses:
            if module not in index:
                visit(module)
        return groups


def members(item):
    """The paths that a `use` names."""
    start = item.find("{")
    if start < 0:
        yield item.split(" as ")[0].strip()
        return
    depth, member = 0, ""
    for character in item[start + 1 : item.rindex("}")] + ",":
        if character == "," and depth == 0:
            if member.strip():
                for path in members(member.strip()):
                    yield item[:start] + path
            member = ""
        else:
            depth += (character == "{") - (character == "}")
            member += character


class RoomsTest(unittest.TestCase):
    def test_no_files_use_each_other(self):
        for source in sorted(ROOT.glob("crates/*/src")):
            with self.subTest(crate=source.parent.name):
                self.assertEqual(Crate(source).circles(), [])

    def test_a_circle_is_found(self):
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            source = pathlib.Path(folder)
            (source / "lib.rs").write_text("mod a;\nmod b;\nmod c;\n")
            (source / "a.rs").write_text("use crate::{b::B, c};\n")
            (source / "b.rs").write_text("fn b() { crate::c::c(); }\n")
            (source / "c.rs").write_text("#[cfg(test)]\nmod tests {\nuse crate::a::A;\n}\n")
            self.assertEqual(Crate(source).circles(), [])
            (source / "c.rs").write_text("use super::b;\nfn c() { b::b(); }\n")
            self.assertEqual(Crate(source).circles(), [["b", "c"]])


if __name__ == "__main__":
    unittest.main()
