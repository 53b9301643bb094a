"""Stands for AWS in the tests: `python tests/stand_in/ec2.py FOLDER` prints its port and serves until SIGTERM.

moto knows the services but runs no machines and is never short of any. So this runs each instance's user data as a process of its own
(the real script, with `shutdown` and `aws` of its own on the path, and a metadata service for each), ends it when the instance is
terminated, and comes before moto where EC2 refuses: zones named in `<FOLDER>/dry` have no machine (a line each; `zone=Code` for another
refusal than the usual), and a client token that was used gives the answer that it gave.
"""

import base64
import io
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qsl, urlencode

from moto.backends import get_backend
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

ACCOUNT, REGION = "123456789012", "eu-west-1"
FOLDER = Path(sys.argv[1])

_SHUTDOWN = """#!/bin/bash
[ "$2" = now ] && touch {folder}/ended
exit 0
"""
_AWS = """#!{python}
import sys, boto3
source, target = sys.argv[-2:]
s3 = boto3.client("s3")
part = lambda address: address.removeprefix("s3://").split("/", 1)
if source.startswith("s3://"):
    s3.download_file(*part(source), target)
else:
    s3.upload_file(source, *part(target))
"""


class Before:
    """What EC2 does and moto does not."""

    def __init__(self) -> None:
        self.moto = DomainDispatcherApplication(create_backend_app)
        self.answers: dict[str, bytes] = {}
        # Each request is one step, as AWS promises; moto looks, then writes, and copies what it lists while it changes.
        self.one_by_one = threading.Lock()

    def __call__(self, environ, start_response):
        length = int(environ.get("CONTENT_LENGTH") or 0)
        body = environ["wsgi.input"].read(length) if length else b""
        with self.one_by_one:
            if b"Action=CreateFleet" in body:
                return self.fleet(dict(parse_qsl(body.decode(), keep_blank_values=True)), environ, start_response)
            return self.passed(body, environ, start_response)

    def passed(self, body, environ, start_response):
        environ["wsgi.input"], environ["CONTENT_LENGTH"] = io.BytesIO(body), str(len(body))
        return list(self.moto(environ, start_response))

    def fleet(self, asked, environ, start_response):
        if asked["ClientToken"] in self.answers:
            start_response("200 OK", [("Content-Type", "text/xml")])
            return [self.answers[asked["ClientToken"]]]
        lines = (FOLDER / "dry").read_text().split() if (FOLDER / "dry").exists() else []
        dry = {line.partition("=")[0]: line.partition("=")[2] or "InsufficientInstanceCapacity" for line in lines}
        shape = re.compile(r"LaunchTemplateConfigs\.1\.Overrides\.(\d+)\.(\w+)")
        places: dict[str, dict[str, str]] = {}
        for name, value in asked.items():
            if found := shape.fullmatch(name):
                places.setdefault(found[1], {})[found[2]] = value
        zones = {subnet.id: subnet.availability_zone for subnet in backend().describe_subnets()}
        kept, refused = [], []
        for override in places.values():
            zone = zones[override["SubnetId"]]
            (refused if zone in dry else kept).append(override)
        left = {name: value for name, value in asked.items() if not shape.fullmatch(name)}
        left |= {f"LaunchTemplateConfigs.1.Overrides.{n}.{key}": value for n, one in enumerate(kept, 1) for key, value in one.items()}
        with (FOLDER / "fleets").open("a") as told:
            spot = asked["TargetCapacitySpecification.DefaultTargetCapacityType"]
            told.write(json.dumps({"type": spot, "places": list(places.values()), "refused": len(refused)}) + "\n")
        errors = "".join(
            "<item><launchTemplateAndOverrides><overrides>"
            f"<instanceType>{one['InstanceType']}</instanceType><subnetId>{one['SubnetId']}</subnetId>"
            f"</overrides></launchTemplateAndOverrides><errorCode>{dry[zones[one['SubnetId']]]}</errorCode>"
            "<errorMessage>There is no capacity.</errorMessage></item>"
            for one in refused
        )
        if kept:
            [answer] = self.passed(urlencode(left).encode(), environ, lambda *told: None)
            answer = re.sub(rb"<errorSet>.*?</errorSet>|<errorSet/>", b"", answer).replace(
                b"</CreateFleetResponse>", f"<errorSet>{errors}</errorSet></CreateFleetResponse>".encode()
            )
        else:
            answer = (
                '<CreateFleetResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><fleetId>fleet-0</fleetId>'
                f"<errorSet>{errors}</errorSet><fleetInstanceSet/></CreateFleetResponse>"
            ).encode()
        self.answers[asked["ClientToken"]] = answer
        start_response("200 OK", [("Content-Type", "text/xml")])
        return [answer]


def backend():
    return get_backend("ec2")[ACCOUNT][REGION]


class Machines(threading.Thread):
    """Runs what instances run."""

    def __init__(self, port: int, lock: threading.Lock) -> None:
        super().__init__(daemon=True)
        self.endpoint, self.lock = f"http://127.0.0.1:{port}", lock
        self.running: dict[str, subprocess.Popen] = {}
        self.asked_to_go: dict[str, float] = {}

    def run(self) -> None:
        while True:
            with self.lock:
                instances = [one for reservation in backend().reservations.values() for one in reservation.instances]
            for instance in instances:
                self.look(instance)
            time.sleep(0.1)

    def look(self, instance) -> None:
        folder = FOLDER / instance.id
        if instance.state == "running" and instance.id not in self.running:
            self.boot(instance, folder)
        elif instance.state == "running" and (folder / "ended").exists():
            with self.lock:
                backend().terminate_instances([instance.id])
        process = self.running.get(instance.id)
        if process and instance.state != "running" and process.poll() is None:
            # As a system that shuts down: asked first.
            began = self.asked_to_go.setdefault(instance.id, time.monotonic())
            number = signal.SIGKILL if time.monotonic() - began > 3 else signal.SIGTERM
            for group in groups(process.pid):
                os.killpg(group, number)

    def boot(self, instance, folder: Path) -> None:
        (folder / "bin").mkdir(parents=True)
        for name, text in (("shutdown", _SHUTDOWN), ("aws", _AWS)):
            (folder / "bin" / name).write_text(text.format(folder=folder, python=sys.executable))
            (folder / "bin" / name).chmod(0o755)
        script = instance.user_data if isinstance(instance.user_data, str) else instance.user_data.decode()
        script = script if script.startswith("#!") else base64.b64decode(script).decode()
        (folder / "user_data.sh").write_text(script)
        self.running[instance.id] = subprocess.Popen(
            ["bash", str(folder / "user_data.sh")],
            env={
                "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
                "HOME": str(folder),
                "NIGHTSHIFT_MACHINE_ROOT": str(folder / "root"),
                "AWS_ENDPOINT_URL": self.endpoint,
                "AWS_ACCESS_KEY_ID": "machine",
                "AWS_SECRET_ACCESS_KEY": "machine",
                "AWS_EC2_METADATA_SERVICE_ENDPOINT": f"http://127.0.0.1:{metadata(folder)}",
                "OMP_NUM_THREADS": "1",
            },
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )


def groups(session: int) -> set[int]:
    """Process groups of a machine: it is a session."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):
            group, of = stat.read_text().rpartition(")")[2].split()[2:4]
            found |= {int(group)} if int(of) == session else set()
    return found


def metadata(folder: Path) -> int:
    """Serves one machine's metadata: what lies in `<folder>/instance-action` and `<folder>/rebalance`. No token, no answer."""

    class Answer(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            self.say(200, "a-token")

        def do_GET(self) -> None:
            path = folder / self.path.rpartition("/")[2]
            if self.headers.get("X-aws-ec2-metadata-token") != "a-token":
                self.say(401, "")
            elif path.exists():
                self.say(200, path.read_text())
            else:
                self.say(404, "")

        def say(self, status: int, text: str) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *told) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_port


def main() -> None:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    before = Before()
    server = make_server("127.0.0.1", 0, before, threaded=True)
    machines = Machines(server.server_port, before.one_by_one)

    def leave(*told) -> None:
        for process in machines.running.values():
            for group in groups(process.pid):
                os.killpg(group, signal.SIGKILL)
        os._exit(0)

    signal.signal(signal.SIGTERM, leave)
    machines.start()
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
