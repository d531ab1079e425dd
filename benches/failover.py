#!/usr/bin/env python3
"""What a failover and a switchover cost, on one machine: three nodes, a synchronous set, writes all the while.

    cargo build --release
    python3 benches/failover.py [--rounds 10] [--lease 3] [--coordinator etcd|DIRECTORY]

Prints one line of JSON for each measurement, and a summary in the end. Needs etcd unless the coordinator is a directory,
which then is the archive, too. Times are from the moment of the kill, or of the request, until a client's append that was
under way is acknowledged by whoever leads then.
"""

import argparse
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def ask(port, method, path, body=None, headers=None, timeout=3):
    """Status and JSON of one request; (None, None) when nobody answers."""
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
        given = {"content-type": "application/json", **(headers or {})}
        connection.request(method, path, body=None if body is None else json.dumps(body), headers=given)
        reply = connection.getresponse()
        text = reply.read()
        connection.close()
    except (OSError, http.client.HTTPException):
        return None, None
    try:
        return reply.status, json.loads(text)
    except ValueError:
        return reply.status, None


class Cluster:
    def __init__(self, args, place):
        self.args, self.place = args, place
        self.ports = [free_port() for _ in range(3)]
        self.nodes, self.etcd, self.etcd_port = {}, None, None
        if args.coordinator == "etcd":
            self.etcd_port, peer = free_port(), free_port()
            client, others = (f"http://127.0.0.1:{port}" for port in (self.etcd_port, peer))
            command = ["etcd", "--data-dir", os.path.join(place, "etcd"), "--log-level", "error"]
            command += ["--listen-client-urls", client, "--advertise-client-urls", client]
            command += ["--listen-peer-urls", others, "--initial-advertise-peer-urls", others]
            command += ["--initial-cluster", f"default={others}"]
            self.etcd = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            until("etcd answers", lambda: ask(self.etcd_port, "GET", "/health")[0] == 200)
            self.url = f"etcd://127.0.0.1:{self.etcd_port}/bench"
        else:
            # An archive is of one log.
            self.url = tempfile.mkdtemp(prefix="bench-", dir=args.coordinator)
        for node in range(3):
            self.start(node)

    def start(self, node):
        command = [self.args.tidelog, "serve", os.path.join(self.place, f"node{node}"), "--create"]
        command += ["--listen", f"127.0.0.1:{self.ports[node]}", "--name", f"node{node}"]
        command += ["--coordinator", self.url, "--lease", f"{self.args.lease}s"]
        command += ["--coordinator-timeout", f"{self.args.lease * 100}ms", "--failover-gap", "1s"]
        if self.etcd is None:
            command += ["--archive", self.url]
        log = open(os.path.join(self.place, f"node{node}.log"), "ab")
        self.nodes[node] = subprocess.Popen(command, stdout=log, stderr=log)

    def leader(self):
        for node, port in enumerate(self.ports):
            if node in self.nodes and ask(port, "GET", "/leader", timeout=1)[0] == 200:
                return node
        return None

    def until_led(self):
        until("somebody leads", lambda: self.leader() is not None)
        return self.leader()

    def until_whole(self):
        """All three hold the same digest."""
        def same():
            found = [ask(port, "GET", "/v1/hash") for port in self.ports]
            digests = {json.dumps(answer) for _, answer in found}
            return all(status == 200 for status, _ in found) and len(digests) == 1
        until("all hold the same", same)

    def set_mode(self):
        leader = self.until_led()
        mode = "sync:k=1" if self.etcd else "archive"
        states = lambda: [ask(port, "GET", "/v1/status")[1] for port in self.ports]
        until("all three answer", lambda: all(states()))
        body = {"mode": mode, "add": [state["node"] for state in states()], "remove": []}
        until("the set is committed", lambda: ask(self.ports[leader], "POST", "/v1/members", body)[0] == 200)

    def requests(self):
        """What etcd was asked so far."""
        connection = http.client.HTTPConnection("127.0.0.1", self.etcd_port, timeout=3)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        found = re.findall(r'^grpc_server_handled_total\{.*grpc_service="etcdserverpb.*\} ([0-9.e+]+)$', text, re.M)
        return sum(float(count) for count in found)

    def end(self):
        for process in [*self.nodes.values(), *([self.etcd] if self.etcd else [])]:
            process.kill()
            process.wait()


class Writer(threading.Thread):
    """One append after another, each until it is acknowledged, by whoever leads."""

    def __init__(self, cluster):
        super().__init__(daemon=True)
        self.cluster, self.over, self.acked = cluster, False, []
        self.at = cluster.until_led()

    def run(self):
        number = 0
        while not self.over:
            number += 1
            began, record = time.monotonic(), {"op": "put", "key": f"k{number % 1000}", "value": "v" * 100}
            while not self.over:
                # Short, so that a node that has just been killed holds nobody up.
                status, _ = ask(self.cluster.ports[self.at], "POST", "/v1/records?timeout=300ms", record,
                                {"idempotency-key": f"w{number}"}, timeout=1)
                if status == 200:
                    self.acked.append((began, time.monotonic()))
                    break
                self.at = (self.at + 1) % 3
                time.sleep(0.005)

    def since(self, moment):
        """The first acknowledgement of an append that was under way then, or began later."""
        return next((done for _, done in reversed_until(self.acked, moment)), None)


def reversed_until(acked, moment):
    """In order, those that ended after `moment`."""
    first = len(acked)
    while first > 0 and acked[first - 1][1] > moment:
        first -= 1
    return acked[first:]


def until(what, true, most=90):
    begun = time.monotonic()
    while not true():
        if time.monotonic() - begun > most:
            sys.exit(f"it does not happen that {what}")
        time.sleep(0.02)


def percentile(numbers, part):
    numbers = sorted(numbers)
    return numbers[min(len(numbers) - 1, int(part * len(numbers)))]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tidelog", default="target/release/tidelog")
    parser.add_argument("--coordinator", default="etcd")
    parser.add_argument("--lease", type=int, default=3, help="seconds")
    parser.add_argument("--rounds", type=int, default=10)
    args = parser.parse_args()
    args.tidelog = os.path.abspath(args.tidelog)
    # It stays when something goes wrong: the nodes' words are in it.
    place = tempfile.mkdtemp(prefix="tidelog-failover-")
    cluster = Cluster(args, place)
    try:
        cluster.set_mode()
        writer = Writer(cluster)
        writer.start()
        until("something is written", lambda: len(writer.acked) > 100)
        failovers, pauses = [], []
        for number in range(args.rounds):
            leader, killed = cluster.until_led(), time.monotonic()
            cluster.nodes.pop(leader).send_signal(signal.SIGKILL)
            until("writes go on", lambda: writer.since(killed) is not None and cluster.leader() not in (None, leader))
            until("writes go on", lambda: writer.since(killed + 0.05) is not None)
            failovers.append(writer.since(killed + 0.05) - killed)
            print(json.dumps({"failover": number, "seconds": round(failovers[-1], 3)}), flush=True)
            cluster.start(leader)
            until("the old leader is back", lambda: ask(cluster.ports[leader], "GET", "/readyz")[0] == 200)
            time.sleep(2 * args.lease)
        for number in range(args.rounds):
            leader, asked = cluster.until_led(), time.monotonic()
            status, answer = ask(cluster.ports[leader], "POST", "/v1/switchover", {}, timeout=20)
            until("another one leads", lambda: cluster.leader() not in (None, leader))
            time.sleep(1)
            took = [done - began for began, done in reversed_until(writer.acked, asked)]
            pauses.append(max(took))
            print(json.dumps({"switchover": number, "status": status, "longest_append_ms": round(1000 * pauses[-1], 1)}),
                  flush=True)
            time.sleep(args.lease)
        writer.over = True
        writer.join()
        cluster.until_whole()
        summary = {
            "coordinator": "etcd" if cluster.etcd else "directory", "lease_seconds": args.lease,
            "appends": len(writer.acked),
            "failover_seconds": {"median": round(percentile(failovers, 0.5), 3), "most": round(max(failovers), 3)},
            "switchover_longest_append_ms": {
                "median": round(1000 * percentile(pauses, 0.5), 1), "most": round(1000 * max(pauses), 1)},
            "same_digest": True,
        }
        if cluster.etcd:
            before, begun = cluster.requests(), time.monotonic()
            time.sleep(20)
            rate = (cluster.requests() - before) / (time.monotonic() - begun)
            summary["etcd_requests_a_second_a_node_at_rest"] = round(rate / 3, 2)
        print(json.dumps(summary))
        shutil.rmtree(place, ignore_errors=True)
    finally:
        cluster.end()


if __name__ == "__main__":
    main()
