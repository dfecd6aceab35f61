"""Tests of scripts/quickstart and scripts/install with a build that takes no time."""

import os
import pathlib
import shutil
import subprocess
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent

BUILD_ENGINE = """#!/bin/sh
echo "building $*" >&2
cat >&2
echo x >>"$(dirname "$0")/../builds"
[ ! -e "$(dirname "$0")/../broken" ] || exit 1
bin="$(cd "$(dirname "$0")/.." && pwd)/target$1"
mkdir -p "$bin"
for program in threadrunner threadrunner-daemon threadrunner-engine; do
    printf '#!/bin/sh\\n[ "$1" = daemon ] || echo "answer to:" "$@" $(cat)\\n' >"$bin/$program"
    chmod +x "$bin/$program"
done
echo "$bin"
"""


class QuickstartTest(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.dir = pathlib.Path(scratch.name)
        self.project = self.dir / "project"
        self.project.mkdir()
        shutil.copytree(ROOT / "scripts", self.project / "scripts")
        for name in ("Cargo.toml", "Cargo.lock", "rust-toolchain.toml"):
            shutil.copy(ROOT / name, self.project / name)
        self.source = self.project / "crates" / "core" / "src" / "lib.rs"
        self.source.parent.mkdir(parents=True)
        self.source.touch()
        build = self.project / "scripts" / "build-engine"
        build.write_text(BUILD_ENGINE)
        build.chmod(0o755)
        # As if everything had been written before today.
        for path in [self.project, *self.project.rglob("*")]:
            os.utime(path, (1, 1))
        self.models = self.dir / "home" / "models"
        self.models.mkdir(parents=True)
        (self.models / "some.gguf").touch()
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("THREADRUNNER_")},
            "THREADRUNNER_HOME": str(self.dir / "home"),
        }

    def run_script(self, name, *arguments, stdin=""):
        return subprocess.run(
            [self.project / "scripts" / name, *arguments],
            env=self.environment,
            cwd=self.dir,
            input=stdin,
            capture_output=True,
            text=True,
        )

    def builds(self):
        log = self.project / "builds"
        return len(log.read_text().split()) if log.exists() else 0

    def test_stdout_is_the_answer_and_nothing_else(self):
        first = self.run_script("quickstart", "a b", "c")
        self.assertEqual((first.returncode, first.stdout), (0, "answer to: a b c\n"), first.stderr)
        self.assertIn("scripts/install", first.stderr)

    def test_stdin_is_the_prompts_from_the_first_time_on(self):
        first = self.run_script("quickstart", "a", stdin="more")
        self.assertEqual(first.stdout, "answer to: a more\n")
        self.assertNotIn("more", first.stderr)

    def test_the_second_time_only_the_prompt_is_run(self):
        self.run_script("quickstart", "a")
        second = self.run_script("quickstart", "b")
        self.assertEqual((second.stdout, second.stderr), ("answer to: b\n", ""))
        self.assertEqual(self.builds(), 1)

    def test_a_change_is_built(self):
        self.run_script("quickstart", "a")
        self.source.write_text("changed")
        self.run_script("quickstart", "a")
        self.assertEqual(self.builds(), 2)
        self.source.unlink()
        self.run_script("quickstart", "a")
        self.assertEqual(self.builds(), 3)
        self.run_script("quickstart", "a")
        self.assertEqual(self.builds(), 3)

    def test_a_program_that_is_gone_is_built(self):
        self.run_script("quickstart", "a")
        (self.project / "target" / "threadrunner-engine").unlink()
        self.run_script("quickstart", "a")
        self.assertEqual(self.builds(), 2)

    def test_a_portable_build_is_another_build(self):
        self.run_script("quickstart", "a")
        portable = self.run_script("quickstart", "--portable", "a")
        self.assertIn("building --portable", portable.stderr)
        self.assertTrue((self.project / "target--portable" / "threadrunner").exists())
        self.assertEqual(self.run_script("quickstart", "--portable", "a").stderr, "")
        self.assertEqual(self.run_script("quickstart", "a").stderr, "")

    def test_a_build_that_fails_is_tried_again(self):
        (self.project / "broken").touch()
        failed = self.run_script("quickstart", "a")
        self.assertEqual((failed.returncode, failed.stdout), (1, ""))
        (self.project / "broken").unlink()
        self.assertEqual(self.run_script("quickstart", "a").stdout, "answer to: a\n")

    def test_install_copies_the_programs_and_tells_when_they_are_not_on_path(self):
        target = self.dir / "bin"
        result = self.run_script("install", str(target))
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(
            sorted(path.name for path in target.iterdir()),
            ["threadrunner", "threadrunner-daemon", "threadrunner-engine"],
        )
        self.assertIn("not on PATH", result.stderr)
        self.environment["PATH"] += f":{target}"
        self.assertNotIn("not on PATH", self.run_script("install", str(target)).stderr)
        self.assertEqual(self.builds(), 1)

    def test_help_needs_no_build(self):
        for script in ("quickstart", "install", "setup"):
            shown = self.run_script(script, "--help")
            self.assertEqual(shown.returncode, 0)
            self.assertIn(f"scripts/{script}", shown.stdout)
        self.assertEqual(self.builds(), 0)


if __name__ == "__main__":
    unittest.main()
