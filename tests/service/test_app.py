from __future__ import annotations

import json
import re
import threading
import time
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tercet.gallery import identify, verify_claim
from tercet.service.answers import Problem


def some(pictures: Path, person: int, *numbers: int) -> list[Path]:
    return [pictures / f"p{person:02d}" / f"{number}.png" for number in numbers]


def enroll_three(service, pictures: Path, **fields: str) -> None:
    for person in range(3):
        answer = service.post(
            "enroll", *(("file", f) for f in some(pictures, person, 0, 1, 2)), identity=f"Person {person}", **fields
        )
        assert answer.status_code == 200, answer.text
        assert (answer.json()["enrolled"], answer.json()["refused"]) == (3, [])


def test_the_whole_way(start, pictures: Path) -> None:
    service = start()
    enroll_three(service, pictures, store_pictures="true")
    listed = service.client.get("/v1/list").json()
    assert [(p["identity"], p["templates"]) for p in listed["identities"]] == [(f"Person {n}", 3) for n in range(3)]
    page = service.client.get("/v1/list", params={"offset": 1, "limit": 1}).json()
    assert ([p["identity"] for p in page["identities"]], page["total"]) == (["Person 1"], 3)

    probe = some(pictures, 1, 2)[0]
    found = service.post("search", ("file", probe), k="4").json()
    assert found["results"][0]["identity"] == "Person 1"
    assert found["results"][0]["path"] == "2.png"
    assert found["results"][0]["score"] == pytest.approx(1, abs=1e-5)
    assert len(found["results"]) == 4
    assert found["gallery"] == 9
    picture = service.client.get(f"/v1/picture/{found['results'][0]['template']}")
    assert picture.headers["content-type"] == "image/jpeg"
    assert picture.content[:2] == b"\xff\xd8"

    gone = service.post("forget", identity="Person 1").json()
    assert gone["removed"] == {"identities": ["Person 1"], "templates": 3, "pictures": 3}
    assert gone["erased"] is True
    assert service.post("forget", identity="Person 1").status_code == 404
    assert service.client.get(f"/v1/picture/{found['results'][0]['template']}").status_code == 404
    again = service.post("search", ("file", probe)).json()
    assert {hit["identity"] for hit in again["results"]} == {"Person 0", "Person 2"}


def test_answers_are_those_of_the_library(start, pictures: Path) -> None:
    service = start()
    model, gallery = service.model, service.gallery
    enroll_three(service, pictures)
    a, b = some(pictures, 0, 3, 4)
    for other in (b, some(pictures, 5, 0)[0], a):
        answer = service.post("verify", ("a", a), ("b", other)).json()
        request_id = answer.pop("request_id")
        expected = model.verify(a, other).to_json()
        assert answer.keys() == expected.keys()
        assert re.fullmatch("[0-9a-f]{16}", request_id)
        score, llr = answer.pop("score"), answer.pop("llr")
        assert score == pytest.approx(expected.pop("score"), abs=1e-6)
        assert llr == pytest.approx(expected.pop("llr"), abs=1e-4)
        assert answer == expected
    probe_D = model.embed([a])[0]
    claimed = service.post("verify", ("a", a), claim=" Person 0 ").json()
    expected = verify_claim(gallery, model.calibration, probe_D, "Person 0").to_json()
    assert claimed.keys() - {"request_id"} == expected.keys()
    assert (claimed["decision"], claimed["claim"], claimed["references"]) == (expected["decision"], "Person 0", 3)
    answer = service.post("identify", ("file", a), k="2").json()
    expected = identify(gallery, model.calibration, probe_D, candidates=2).to_json()
    assert answer.keys() - {"request_id"} == expected.keys()
    assert len(answer["candidates"]) == 2
    for key in ("decision", "identity", "comparisons", "threshold", "calibration", "model", "runner_up"):
        assert answer[key] == expected[key], key
    assert answer["score"] == pytest.approx(expected["score"], abs=1e-6)
    decided = service.client.get("/metrics").text
    assert 'tercet_decisions_total{command="verify",decision="match"}' in decided


def test_without_a_threshold_nothing_is_decided(start, pictures: Path) -> None:
    service = start(change=lambda model: setattr(model, "calibration", None))
    a, b = some(pictures, 0, 0, 1)
    assert service.post("identify", ("file", a)).json()["decision"] == "unknown"  # nobody is enrolled
    enroll_three(service, pictures)
    answer = service.post("verify", ("a", a), ("b", b)).json()
    assert (answer["decision"], answer["calibration"]) == ("undecided", None)
    assert "no calibrated threshold" in answer["reason"]
    assert service.post("identify", ("file", a)).json()["decision"] == "undecided"
    assert service.client.get("/v1/about").json()["threshold"] is None


def test_tags_and_time(start, pictures: Path) -> None:
    service = start(purge_s=0.2)
    for person, tag in ((0, "staff"), (1, "guest")):
        service.post(
            "enroll", ("file", some(pictures, person, 0)[0]), identity=f"p{person}", tag=["x", tag], retain="30d"
        )
    found = service.post("search", ("file", some(pictures, 1, 0)[0]), tag=["staff", "x"]).json()
    assert ([hit["identity"] for hit in found["results"]], found["gallery"]) == (["p0"], 1)
    listed = service.client.get("/v1/list").json()["identities"]
    assert [(one["tags"], one["expires"] is not None) for one in listed] == [
        (["staff", "x"], True),
        (["guest", "x"], True),
    ]
    from tercet.gallery import Template

    vector_D = np.eye(16, dtype=np.float32)[0]
    service.gallery.enroll([Template("short", vector_D, "c")], retain_s=0.1)
    for _ in range(600):
        if any(line["event"] == "purged" for line in service.log()):
            break
        time.sleep(0.05)
    assert [line["templates"] for line in service.log() if line["event"] == "purged"] == [1]


def test_what_shows_nothing_or_somebody_else_is_not_enrolled(start, pictures: Path) -> None:
    service = start()
    enroll_three(service, pictures)
    same = some(pictures, 0, 0)[0]
    refused = service.post("enroll", ("file", same), identity="Somebody else")
    assert refused.status_code == 422
    assert "the same as a sample of Person 0" in refused.json()["error"]
    partly = service.post("enroll", ("file", same), ("file", some(pictures, 4, 0)[0]), identity="Somebody else").json()
    assert (partly["enrolled"], len(partly["refused"])) == (1, 1)
    again = service.post("enroll", ("file", same), identity="Person 0").json()
    assert (again["enrolled"], again["replaced"]) == (1, 1)
    forced = service.post("enroll", ("file", same), identity="Somebody else", force="true").json()
    assert (forced["enrolled"], len(forced["warnings"])) == (1, 1)


def test_speech(start, sound_run: Path, voices: Path) -> None:
    service = start(sound_run)
    assert service.client.get("/v1/about").json()["kind"] == "sound"
    files = [("file", voices / "s00" / f"{n}.flac") for n in (0, 1)]
    assert service.post("enroll", *files, identity="Ann").json()["enrolled"] == 2
    assert service.post("identify", ("file", voices / "s00" / "2.flac")).json()["candidates"][0]["identity"] == "Ann"
    assert service.post("enroll", files[0], identity="Ann", store_pictures="true").status_code == 400
    import io

    import soundfile

    silence = io.BytesIO()
    soundfile.write(silence, np.zeros(32_000), 16_000, format="WAV")
    quiet = silence.getvalue()
    for answer in (
        service.post("verify", ("a", quiet), ("b", voices / "s00" / "2.flac")),
        service.post("verify", ("a", quiet), claim="Ann"),
        service.post("identify", ("file", quiet)),
    ):
        assert (answer.status_code, answer.json()["decision"], answer.json()["score"]) == (200, "undecided", None)
        assert "too little speech" in answer.json()["reason"]
    assert service.post("search", ("file", quiet)).status_code == 422
    assert service.post("verify", ("a", quiet), claim="Nobody").status_code == 404


def test_a_key_is_asked_for(start, pictures: Path) -> None:
    service = start(keys=("0123456789abcdef", "fedcba9876543210"))
    client = service.client
    for path in ("/health", "/", "/docs", "/openapi.json", "/app.js", "/style.css", "/sound.js", "/icon.svg"):
        assert client.get(path).status_code == 200, path
    closed = ("/v1/list", "/v1/about", "/metrics", "/v1/picture/0")
    for header in (
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": "0123456789abcdef"},
        {"authorization": "Basic 0123456789abcdef"},
    ):
        for path in closed:
            refused = client.get(path, headers=header)
            assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer"), path
        for path in ("verify", "identify", "search", "enroll", "forget"):
            assert client.post(f"/v1/{path}", headers=header).status_code == 401
    for number, key in enumerate(("0123456789abcdef", "fedcba9876543210"), start=1):
        assert (
            client.get("/v1/list", headers={"authorization": f"Bearer {key}", "host": "any.example"}).status_code == 200
        )
        assert service.log()[-1]["caller"] == f"key-{number}"
    assert "0123456789abcdef" not in service.written.getvalue()


FOREIGN = [
    {"host": "evil.example"},
    {"host": "[::1"},
    {"origin": "https://evil.example"},
    {"origin": "null"},
    {"origin": "http://127.0.0.1:81"},
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
]


def test_pages_of_other_sites_are_turned_away(start) -> None:
    client = start().client
    for headers in FOREIGN:
        answer = client.post("/v1/forget", files={"identity": (None, "x")}, headers=headers)
        assert answer.status_code == 403, headers
        assert "access-control-allow-origin" not in answer.headers
        ask = headers | {"access-control-request-method": "POST"}
        assert client.options("/v1/forget", headers=ask).status_code == 403
    for good in ({"origin": "http://127.0.0.1"}, {"sec-fetch-site": "same-origin"}, {"host": "localhost:8000"}):
        assert client.get("/health", headers=good).status_code == 200


WRONG = [
    ("verify", ["a"], {}, 400, "two files, a and b, or one file a and a claim"),
    ("verify", ["a", "b"], {"claim": "x"}, 400, "two files"),
    ("verify", ["b"], {"claim": "x"}, 400, "a: one file is needed, 0 came"),
    ("verify", ["a", "a"], {"claim": "x"}, 400, "a: one file is needed, 2 came"),
    ("verify", ["a", "b", "b"], {}, 400, "Too many files"),
    ("verify", ["a"], {"claim": " "}, 400, "must not be blank"),
    ("verify", ["a"], {"claim": "x" * 600}, 400, "512"),
    ("verify", ["a"], {"claim": "nobody"}, 404, "nobody of that name"),
    ("verify", ["a", "c"], {}, 400, "files go in: a, b"),
    ("verify", ["a"], {"path": "/etc/passwd"}, 400, "unknown field"),
    ("verify", ["a"], {"b": "http://127.0.0.1/x.png"}, 400, "b: must be a file"),
    ("identify", [], {"file": "/etc/passwd"}, 400, "file: must be a file"),
    ("identify", ["file"], {"k": "0"}, 400, "k: must be a whole number from 1 to 100"),
    ("identify", ["file"], {"k": "1e3"}, 400, "k: must be"),
    ("identify", ["file"], {"k": ["1", "2"]}, 400, "k: given 2 times"),
    ("search", ["file"], {"tag": ""}, 400, "tag: must not be blank"),
    ("enroll", ["file"], {}, 400, "identity: must not be blank"),
    ("enroll", [], {"identity": "x"}, 400, "file: at least one"),
    ("enroll", ["file"], {"identity": "x", "retain": "soon"}, 400, "retain soon"),
    ("enroll", ["file"], {"identity": "x", "force": "yes"}, 400, "force: must be true or false"),
    ("enroll", ["file"] * 4, {"identity": "x"}, 400, "Too many files"),
    ("forget", [], {"identity": "nobody"}, 404, "nobody of that name"),
    ("forget", ["identity"], {}, 400, "Too many files"),
    ("forget", [], {"identity": "x" * 5000}, 400, "maximum size"),
]


def test_wrong_use_is_told(start, pictures: Path) -> None:
    service = start(max_files=3)
    data = some(pictures, 0, 0)[0].read_bytes()
    for path, files, fields, status, said in WRONG:
        parts = [(field, ("x.png", data)) for field in files]
        for field, value in fields.items():
            parts += [(field, (None, one)) for one in ([value] if isinstance(value, str) else value)]
        answer = service.client.post(f"/v1/{path}", files=parts)
        assert answer.status_code == status, (path, files, fields, answer.text)
        assert said in answer.json()["error"]
        Problem.model_validate(answer.json())
        assert answer.headers["x-request-id"] == answer.json()["request_id"]


def test_other_bodies_methods_and_paths(start) -> None:
    client = start().client
    assert client.post("/v1/verify", json={"a": 1}).status_code == 415
    assert client.post("/v1/verify", content=b"x", headers={"content-type": "multipart/form-data"}).status_code == 400
    form = {"content-type": "multipart/form-data; boundary=b"}
    for body in (
        b"",
        b"--b",
        b"--b\r\n\r\nx\r\n--b--",
        b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--\r\n",
        b"\x00" * 500,
    ):
        assert client.post("/v1/verify", content=body, headers=form).status_code == 400, body
    assert client.post("/v1/verify", content=b"", headers=form | {"content-encoding": "gzip"}).status_code == 415
    assert client.get("/v1/verify").status_code == 405
    assert client.get("/nothing").json().keys() == {"error", "request_id"}
    assert client.get("/v1/list", params={"limit": 0}).status_code == 400
    assert client.get("/v1/list", params={"limit": "x"}).json()["error"].startswith("limit: ")
    assert client.get("/v1/picture/..%2f..%2fetc").status_code == 404


def test_too_many_bytes(start, pictures: Path) -> None:
    service = start(max_file_bytes=1000)
    form = {"content-type": "multipart/form-data; boundary=b"}
    small = some(pictures, 0, 0)[0].read_bytes()
    assert len(small) < 1000
    assert service.post("identify", ("file", small)).status_code == 200
    assert service.post("identify", ("file", small + bytes(1000))).status_code == 413
    assert service.client.post("/v1/identify", content=bytes(10**6), headers=form).status_code == 413
    sent = 0

    def endless():
        nonlocal sent
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
        while sent < 10**7:
            sent += 10_000
            yield bytes(10_000)

    refused = service.client.post("/v1/identify", content=endless(), headers=form)
    assert refused.status_code == 413
    assert service.client.post("/v1/identify", headers=form | {"content-length": "nine"}).status_code == 400


def test_too_many_at_once_are_told_so_and_served_later(start, pictures: Path) -> None:
    began, go = threading.Event(), threading.Event()

    def slow(model) -> None:
        embed = model.embed

        def wait(inputs):
            began.set()
            assert go.wait(60)
            return embed(inputs)

        model.embed = wait

    service = start(change=slow, at_once=1)
    picture = some(pictures, 0, 0)[0]
    answers = []
    thread = threading.Thread(target=lambda: answers.append(service.post("identify", ("file", picture))))
    thread.start()
    assert began.wait(60)
    for _ in range(3):
        busy = service.post("identify", ("file", picture))
        assert (busy.status_code, busy.headers["retry-after"]) == (503, "1")
    assert service.client.get("/health").status_code == 200
    go.set()
    thread.join(60)
    assert answers[0].status_code == 200
    assert service.post("identify", ("file", picture)).status_code == 200
    assert 'tercet_refused_total{reason="busy"} 3.0' in service.client.get("/metrics").text


def test_a_rate_for_decisions(start, pictures: Path) -> None:
    service = start(per_minute=18, keys=("0123456789abcdef", "fedcba9876543210"))
    picture = some(pictures, 0, 0)[0]
    service.client.headers["authorization"] = "Bearer 0123456789abcdef"
    statuses = [
        service.post(path, ("file", picture)).status_code for path in ("identify", "search", "identify", "identify")
    ]
    assert statuses == [200, 200, 200, 429]
    refused = service.post("verify", ("a", picture), ("b", picture))
    assert refused.status_code == 429
    assert 1 <= int(refused.headers["retry-after"]) <= 4
    assert service.client.get("/v1/list").status_code == 200
    service.client.headers["authorization"] = "Bearer fedcba9876543210"
    assert service.post("identify", ("file", picture)).status_code == 200


def test_every_answer_is_closed_to_other_sites_and_pages_name_no_other_host(start) -> None:
    client = start().client
    for path in ("/", "/docs", "/v1/list", "/nothing", "/app.js"):
        headers = client.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "http" not in headers["content-security-policy"]
        assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "no-referrer")
    assert client.get("/v1/list").headers["cache-control"] == "no-store"
    for file in resources.files("tercet.service").joinpath("static").iterdir():
        text = file.read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|[\"'(]//", text), file.name
        assert not re.search(r"\sstyle=|\son[a-z]+=|<script>|innerHTML|eval\(", text), file.name
    docs = client.get("/docs").text
    for path in client.get("/openapi.json").json()["paths"]:
        assert f"<code>{path}</code>" in docs


def test_the_log_names_nobody(start, pictures: Path) -> None:
    service = start()
    service.post("enroll", ("file", some(pictures, 0, 0)[0]), identity="Zoë Muster", tag="secret-tag")
    service.post("identify", ("file", some(pictures, 0, 0)[0]))
    service.post("verify", ("a", some(pictures, 0, 0)[0]), claim="Zoë Muster")
    service.post("verify", ("a", some(pictures, 0, 0)[0]), claim="Who Ever")
    service.client.get("/v1/picture/Zoe", params={"q": "Muster"})
    service.client.get("/Zoë Muster")
    service.post("forget", identity="Zoë Muster")
    log = service.log()
    assert len(log) == 7
    assert all({"time", "event", "request_id", "route", "status", "ms"} <= line.keys() for line in log)
    assert not re.search(r"Zo|Muster|Ever|secret|0\.png|127\.0|testclient", json.dumps(log, ensure_ascii=False))
    alias = service.gallery.audit.pseudonym("Zoë Muster")
    assert [line.get("subject") for line in log if line["status"] == 200] == [alias] * 4
    assert (log[1]["decision"], log[3]["refused"]) == ("identified", "wrong_use")
    families = {family.name for family in text_string_to_metric_families(service.client.get("/metrics").text)}
    assert {"tercet_requests", "tercet_request_seconds", "tercet_decisions", "tercet_batch_size"} <= families
    assert "Muster" not in service.client.get("/metrics").text


def test_a_defect_is_answered_and_logged_without_its_text(start, pictures: Path) -> None:
    def broken(model) -> None:
        def fail(inputs):
            raise RuntimeError("Zoë at fault")

        model.embed = fail

    service = start(change=broken)
    answer = service.post("identify", ("file", some(pictures, 0, 0)[0]))
    assert answer.status_code == 500
    defect = next(line for line in service.log() if line["event"] == "defect")
    assert defect["error"] == "RuntimeError"
    assert defect["request_id"] == answer.json()["request_id"]
    assert "Zo" not in service.written.getvalue() + answer.text
    assert service.client.get("/health").status_code == 200


def test_a_gallery_that_fails_is_told_without_its_address(start, pictures: Path) -> None:
    service = start()
    service.gallery.close()
    answer = service.post("identify", ("file", some(pictures, 0, 0)[0]))
    assert answer.status_code == 503
    assert "gallery.db" not in answer.text
    assert service.client.get("/health").status_code == 503
