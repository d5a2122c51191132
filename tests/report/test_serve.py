"""The local server: the same page, ranges, and nothing outside its folder."""

import http.client
from threading import Thread

import pytest

from lesionwise.errors import InputError
from lesionwise.report.serve import byte_range, confined, make_server


@pytest.fixture
def ask(out):
    server = make_server(out[0])
    Thread(target=server.serve_forever, daemon=True).start()

    def asked(path, *, method="GET", **headers):
        connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=30)
        connection.putrequest(method, path, skip_host="Host" in headers)
        for key, value in headers.items():
            connection.putheader(key, value)
        connection.endheaders()
        response = connection.getresponse()
        body = response.read()
        connection.close()
        return response, body

    asked.port = server.server_address[1]
    yield asked
    server.shutdown()
    server.server_close()


def test_listens_on_loopback_only(out):
    with make_server(out[0]) as server:
        assert server.server_address[0] == "127.0.0.1"


def test_ranges_are_bytes_of_the_file(ask, out):
    name = out[1]
    relative = f"{name.folder}/{name.stem}_lesions.tsv"
    whole = (out[0] / relative).read_bytes()
    response, body = ask(f"/files/{relative}", Range="bytes=5-19")
    assert (response.status, body) == (206, whole[5:20])
    assert response.getheader("Content-Range") == f"bytes 5-19/{len(whole)}"
    response, body = ask(f"/files/{relative}", Range=f"bytes={len(whole)}-")
    assert (response.status, body) == (416, b"")
    response, body = ask(f"/files/{relative}", method="HEAD")
    assert (response.status, body, response.getheader("Content-Length")) == (200, b"", str(len(whole)))


@pytest.mark.parametrize(
    ("header", "wanted"),
    [("bytes=0-0", (0, 0)), ("bytes=90-", (90, 99)), ("bytes=-5", (95, 99)), ("bytes=0-900", (0, 99)), (None, None),
     ("bytes=0-1,3-4", None), ("lines=1-2", None)],
)  # fmt: skip
def test_range_headers(header, wanted):
    assert byte_range(header, 100) == wanted


@pytest.mark.parametrize("header", ["bytes=100-", "bytes=9-3", "bytes=-0"])
def test_ranges_outside_the_file(header):
    with pytest.raises(ValueError, match="range"):
        byte_range(header, 100)


def test_paths_stay_in_the_folder(ask, out, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    link = out[0] / "link.txt"
    link.symlink_to(secret)
    for path in (
        "/files/../secret.txt",
        "/files/%2e%2e/%2e%2e/etc/passwd",
        "/files//etc/passwd",
        "/files/link.txt",
        "/files/..%2f..%2fetc/passwd",
        "/files/sub-01%00",
        "/etc/passwd",
        "/scan/../../etc",
        "/data/sub-01/nothing",
    ):
        response, body = ask(path)
        assert response.status == 404, path
        assert body == b""
    link.unlink()
    assert confined(out[0], "dataset_description.json") == (out[0] / "dataset_description.json").resolve()


def test_nothing_can_be_written(ask):
    for method in ("PUT", "POST", "DELETE", "PATCH"):
        response, _ = ask("/files/new.txt", method=method)
        assert response.status == 501


def test_another_name_for_this_machine_is_refused(ask):
    assert ask("/", Host="evil.example:80")[0].status == 403
    assert ask("/files/dataset_description.json", Host=f"localhost:{ask.port}")[0].status == 200
    assert ask("/", Host="[bad")[0].status == 403


@pytest.mark.parametrize(
    "path", ["/files/" + 300 * "a", "/scan/" + 300 * "a", "/files/a%00b", "/data/" + 300 * "a" + "/x", "//[bad/"]
)
def test_addresses_of_nothing_are_not_found(ask, path):
    response, body = ask(path)
    assert response.status in (400, 404)
    assert body == b""


def test_a_folder_without_scans(tmp_path):
    with pytest.raises(InputError, match="finished scans"):
        make_server(tmp_path)


@pytest.mark.browser
def test_the_served_page_is_the_same_page(ask, open_page):
    opened = open_page(f"http://127.0.0.1:{ask.port}/")
    opened.choose(3)
    assert opened.page.inner_text("h1") == "sub-01"
    assert opened.page.evaluate("LW.state.map !== null")
    assert all(url.startswith(f"http://127.0.0.1:{ask.port}/") for url in opened.outside)
    assert any("/data/sub-01/map-3" in url for url in opened.outside)
    assert opened.errors == []


@pytest.mark.browser
def test_the_cohort_is_served_and_its_points_lead_to_served_pages(make_out, tmp_path, open_page):
    for number in range(2):
        make_out(tmp_path, subject=f"{number:02d}", seed=number, size=32, lesions=3)
    server = make_server(tmp_path)
    Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    opened = open_page(f"{address}/cohort")
    opened.page.click("a:has-text('sub-01')")
    opened.page.wait_for_selector("html[data-ready=true][data-shown]", state="attached", timeout=20_000)
    assert opened.page.url.startswith(f"{address}/scan/sub-01")
    assert all(url.startswith(f"{address}/") for url in opened.outside)
    assert opened.errors == []
    server.shutdown()
    server.server_close()
