"""Tests that the documentation agrees with the sources."""

import pathlib
import re
import tomllib
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


def read(path):
    return (ROOT / path).read_text()


def without_code(text):
    return re.sub(r"```[^`]*```|`[^`]*`|^    [^\n]*$", "", text, flags=re.M)


class DocsTest(unittest.TestCase):
    def test_links_lead_somewhere(self):
        for page in PAGES:
            for target in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text())):
                if re.match(r"[a-z]+:", target):
                    continue
                path, _, anchor = target.partition("#")
                found = (page.parent / path).resolve() if path else page
                with self.subTest(page=page.name, link=target):
                    self.assertTrue(found.exists())
                    if anchor:
                        headings = re.findall(r"^#+ (.*)$", found.read_text(), re.M)
                        names = [
                            re.sub(r"[^a-z0-9 -]", "", h.lower()).replace(" ", "-") for h in headings
                        ]
                        self.assertIn(anchor, names)

    def test_every_error_code_is_in_the_protocol(self):
        source = read("crates/core/src/error.rs")
        block = source[source.index("pub enum ErrorCode {") :]
        codes = re.findall(r'^        \w+ = "(\w+)",$', block[: block.index("\n    }\n")], re.M)
        self.assertGreater(len(codes), 20)
        documented = re.findall(r"^\| `(\w+)` \| [A-Z]", read("docs/protocol.md"), re.M)
        self.assertEqual(documented, [*codes, "unknown"])

    def test_every_exit_code_is_in_the_readme(self):
        source = read("crates/core/src/error.rs")
        block = source[source.index("pub enum ExitCode {") :]
        codes = re.findall(r"^    (\w+) = (\d+),$", block[: block.index("\n}\n")], re.M)
        table = re.findall(r"^\| (\d+) \| (\w+) \|", read("README.md"), re.M)
        self.assertEqual([(name, code) for code, name in table], codes)

    def test_every_op_and_event_is_in_the_protocol(self):
        page = read("docs/protocol.md")
        for path, enums in {
            "crates/core/src/protocol/ops.rs": ["\nops!"],
            "crates/core/src/protocol.rs": ["pub enum Progress"],
            "crates/core/src/engine_protocol.rs": ["pub enum Command", "pub enum Event"],
        }.items():
            source = read(path)
            for enum in enums:
                block = source[source.index(f"{enum} {{") :]
                block = block[: block.index("\n}\n")]
                block = re.sub(r"#\[serde\((?:skip|other).*\]\n    \w+.*", "", block)
                for variant in re.findall(r"^    ([A-Z]\w+)", block, re.M):
                    name = re.sub(r"(?<!^)([A-Z])", r"_\1", variant).lower()
                    with self.subTest(enum=enum, name=name):
                        self.assertIn(f"| `{name}` |", page)

    def test_every_key_of_a_submission_is_in_the_protocol(self):
        page = read("docs/protocol.md")
        source = read("crates/core/src/protocol.rs")
        block = source[source.index("pub struct Submission {") :]
        for field in re.findall(r"^    pub (\w+):", block[: block.index("\n}\n")], re.M):
            # A test of `core` looks for the parameters.
            if field != "params":
                with self.subTest(field=field):
                    self.assertIn(f"| `{field}` |", page)

    def test_every_key_of_the_configuration_is_documented(self):
        page = read("docs/configuration.md")
        text = re.search(r"```toml\n(.*?)```", page, re.S).group(1)
        # The examples are commented out; uncommented, they must be TOML together.
        documented = tomllib.loads(re.sub(r"^# (\w+ = )", r"\1", text, flags=re.M))
        # `threadrunner config show` prints the same.
        self.assertEqual(text, read("crates/home/src/config/every_key.toml"))

        def fields(struct, path):
            source = read(path)
            block = source[source.index(f"pub struct {struct} {{") :]
            return set(re.findall(r"^    pub (\w+):", block[: block.index("\n}\n")], re.M))

        config, model = "crates/home/src/config.rs", "crates/home/src/model_config.rs"
        engine = fields("EngineOptions", "crates/core/src/engine_protocol.rs")
        self.assertEqual(set(documented), fields("Config", config))
        self.assertEqual(set(documented["engine"]) | {"dummy"}, engine)
        self.assertEqual(set(documented["workspaces"]["code"]), fields("WorkspaceConfig", config))
        self.assertEqual(set(documented["models"]["small"]) | {"dummy"}, fields("ModelConfig", model))

    def test_the_python_example_compiles(self):
        page = read("docs/protocol.md")
        program = re.search(
            r"<!-- test: the-simplest-client -->\n```python\n(.*?)```", page, re.S
        ).group(1)
        compile(program, "docs/protocol.md", "exec")

    def test_every_script_named_is_there(self):
        for page in PAGES:
            for name in re.findall(r"\bscripts/([a-z][a-z-]+)\b", page.read_text()):
                with self.subTest(page=page.name, script=name):
                    self.assertTrue((ROOT / "scripts" / name).exists())


if __name__ == "__main__":
    unittest.main()
