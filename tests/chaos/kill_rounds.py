"""`kill -9` under load, over and over on one data directory: what was confirmed is there, what was settled is gone.

    WAYPOST_BIN=target/release/waypost python tests/chaos/kill_rounds.py --rounds 50

Each round publishes and consumes through plain, fanned-out, dead-lettering and transactional queues and changes
definitions, is killed at a random moment (now and then while it recovers, too), and compares everything with a ledger.
Backlogs are carried over several rounds. Needs what the interop tests need. Exit code 1 and the data directory kept when
anything is wrong.

`--lie` shows that the ledger would notice: the clients then claim what the server was never asked for, and the run must
fail. `lost` counts a message as confirmed that was never sent, `undone` counts as settled what was never acknowledged,
`half` leaves a message out of one half of a transaction.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import threading
import time
import traceback
import urllib.request

import wire
from wire import Broken, Client, spec

from broker import Waypost, waypost_binary  # noqa: E402  (found through wire)

DURABLE = {"durable": True}


class Ledger:
    """What one queue was promised. A message may be present if it was published and is not settled for sure."""

    def __init__(self):
        self.lock = threading.Lock()
        self.published: set[bytes] = set()
        self.confirmed: set[bytes] = set()
        self.ack_sent: set[bytes] = set()
        self.settled: set[bytes] = set()

    def check(self, name: str, found: list[bytes], once: bool = True) -> None:
        with self.lock:
            there = set(found)
            lost = self.confirmed - self.ack_sent - there
            undone = there & self.settled
            strange = there - self.published
            assert not lost, f"{name}: {len(lost)} confirmed and lost, {sorted(lost)[:5]}"
            assert not undone, f"{name}: {len(undone)} settled and back, {sorted(undone)[:5]}"
            assert not strange, f"{name}: {len(strange)} never published, {sorted(strange)[:5]}"
            assert not once or len(there) == len(found), f"{name}: {len(found) - len(there)} came twice"
            # What is not there after a restart will not come later.
            self.published, self.confirmed, self.ack_sent, self.settled = there, set(there), set(), set()


class World:
    def __init__(self, seed: int, lie: str | None = None):
        self.rng = random.Random(seed)
        self.lie = lie
        self.own = Waypost("--disk-segment-bytes", "4MiB", "--log-format", "text")
        self.plain = [f"plain-{n}" for n in range(6)]
        self.fanned = [f"fan-{n}" for n in range(3)]
        self.ledgers = {q: Ledger() for q in self.plain + self.fanned + ["tx-a", "tx-b", "dead"]}
        self.definitions: dict[str, bool | None] = {}
        self.count, self.total, self.wrong = 0, 0, []
        self.stop = threading.Event()

    def body(self, rng: random.Random, who: str, number: int) -> bytes:
        size = rng.choice([0, 0, 0, 0, 100, 1000, 5000]) if rng.random() < 0.98 else 200_000
        return f"{who}.{number:08}.".encode() + b"x" * size

    def guard(self, work, *arguments) -> None:
        try:
            work(*arguments)
        except Broken:
            pass
        except Exception:  # noqa: BLE001  whatever it is, the round has failed
            self.wrong.append(traceback.format_exc())

    def prepare(self) -> None:
        client = Client(self.own.endpoint)

        def declare(name, **arguments):
            client.call(spec.Queue.Declare(queue=name, durable=True, arguments=arguments), spec.Queue.DeclareOk)

        for queue in self.plain + ["tx-a", "tx-b", "dead", "marks"]:
            declare(queue)
        client.call(spec.Exchange.Declare(exchange="fan", type="fanout", durable=True), spec.Exchange.DeclareOk)
        for queue in self.fanned:
            declare(queue)
            client.call(spec.Queue.Bind(queue=queue, exchange="fan"), spec.Queue.BindOk)
        dead = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"}
        declare("overflows", **dead, **{"x-max-length": 50})
        declare("rejects", **dead)
        client.close()

    # The loads. Each runs until the connection breaks.

    def publish(self, exchange: str, key: str, ledgers: list[Ledger], who: str, seed: int) -> None:
        client, rng, number = Client(self.own.endpoint), random.Random(seed), 0
        client.call(spec.Confirm.Select(), spec.Confirm.SelectOk)
        while not self.stop.is_set():
            bodies = [self.body(rng, who, number + n) for n in range(rng.choice([1, 10, 100, 300]))]
            number += len(bodies)
            for ledger in ledgers:
                with ledger.lock:
                    ledger.published.update(name(b) for b in bodies)
            before = client.settled
            client.publish(exchange, key, bodies)
            try:
                client.wait_confirms()
            finally:
                sure = bodies[: client.settled - before] if not client.nacked else []
                for ledger in ledgers:
                    with ledger.lock:
                        ledger.confirmed.update(name(b) for b in sure)
                        if self.lie == "lost" and sure:
                            ledger.confirmed.add(f"{who}.never".encode())
                self.total += len(sure)

    def consume(self, queue: str, reject: bool = False) -> None:
        """Acknowledges; a confirmed mark after it on the same channel makes the acknowledgement a promise."""
        ledger = self.ledgers.get(queue)
        client = Client(self.own.endpoint)
        client.call(spec.Confirm.Select(), spec.Confirm.SelectOk)
        client.call(spec.Basic.Qos(prefetch_count=200), spec.Basic.QosOk)
        client.call(spec.Basic.Consume(queue=queue), spec.Basic.ConsumeOk)
        while not self.stop.is_set():
            got = client.wait_deliveries()
            if reject:
                for one in got:
                    client.reject(one.tag)
                continue
            names = [name(one.body) for one in got]
            with ledger.lock:
                ledger.ack_sent.update(names)
            if self.lie != "undone":
                client.ack(got[-1].tag)
            client.publish("", "marks", [b"mark"])
            client.wait_confirms()
            with ledger.lock:
                ledger.settled.update(names)

    def transact(self, seed: int) -> None:
        client, rng, number = Client(self.own.endpoint), random.Random(seed), 0
        client.call(spec.Tx.Select(), spec.Tx.SelectOk)
        a, b = self.ledgers["tx-a"], self.ledgers["tx-b"]
        while not self.stop.is_set():
            bodies = [self.body(rng, f"tx{self.count}", number + n) for n in range(rng.randrange(1, 30))]
            number += len(bodies)
            for queue in ["tx-a", "tx-b"]:
                kept = bodies[1:] if self.lie == "half" and queue == "tx-b" else bodies
                client.send(wire.publishes("", queue, kept))
            if rng.random() < 0.2:
                client.call(spec.Tx.Rollback(), spec.Tx.RollbackOk)
                continue
            names = [name(body) for body in bodies]
            for ledger in [a, b]:
                with ledger.lock:
                    ledger.published.update(names)
            client.call(spec.Tx.Commit(), spec.Tx.CommitOk)
            for ledger in [a, b]:
                with ledger.lock:
                    ledger.confirmed.update(names)
            self.total += len(names)

    def define(self, seed: int) -> None:
        """Queues and bindings come and go; None stands for a change whose -ok did not come."""
        client, rng = Client(self.own.endpoint), random.Random(seed)
        while not self.stop.is_set():
            queue = f"defined-{rng.randrange(200)}"
            there = self.definitions.get(queue)
            self.definitions[queue] = None
            if there:
                client.call(spec.Queue.Delete(queue=queue), spec.Queue.DeleteOk)
                self.definitions[queue] = False
            else:
                client.call(spec.Queue.Declare(queue=queue, durable=True), spec.Queue.DeclareOk)
                client.call(spec.Queue.Bind(queue=queue, exchange="amq.topic", routing_key=f"{queue}.#"), spec.Queue.BindOk)
                self.definitions[queue] = True

    def manage(self, seed: int) -> None:
        """A policy and a user per round."""
        try:
            self.own.cli("policies", "set", f"policy-{self.count}", f"^nothing-{seed}$", "-a", "max-length=7")
            self.definitions[f"policy-{self.count}"] = True
            self.own.cli("users", "add", f"user-{self.count}", "--password", "secret")
            self.definitions[f"user-{self.count}"] = True
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            if self.own.alive() and not self.stop.is_set():
                raise
            del error

    def loads(self) -> list[threading.Thread]:
        rng, jobs = self.rng, []
        for queue in self.plain:
            jobs.append((self.publish, "", queue, [self.ledgers[queue]], f"p{self.count}", rng.random()))
        for queue in self.plain[:4] + self.fanned[:1]:
            jobs.append((self.consume, queue))
        fanned = [self.ledgers[queue] for queue in self.fanned]
        jobs.append((self.publish, "fan", "", fanned, f"f{self.count}", rng.random()))
        dead = [self.ledgers["dead"]]
        jobs.append((self.publish, "", "overflows", dead, f"o{self.count}", rng.random()))
        jobs.append((self.publish, "", "rejects", dead, f"r{self.count}", rng.random()))
        jobs += [(self.consume, "rejects", True), (self.transact, rng.random()), (self.define, rng.random())]
        jobs.append((self.manage, rng.randrange(1 << 30)))
        return [threading.Thread(target=self.guard, args=job, daemon=True) for job in jobs]

    # A round.

    def round(self) -> None:
        self.count += 1
        self.stop.clear()
        threads = self.loads()
        for thread in threads:
            thread.start()
        time.sleep(self.rng.uniform(0.05, 0.9))
        # Before the kill, so that the threads do not take the end of the server for a failure.
        self.stop.set()
        self.own.kill()
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive(), "a client hangs"
        assert not self.wrong, self.wrong[0]
        while self.rng.random() < 0.4:
            self.killed_start()
        self.own.start()
        self.check()

    def killed_start(self) -> None:
        command = [str(waypost_binary()), "serve", "--data-dir", str(self.own.data), "--amqp", "127.0.0.1:0"]
        command += ["--http", "127.0.0.1:0", "--dns", "off", "--kafka", "off", *self.own.flags]
        with self.own.log.open("ab") as log:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        time.sleep(self.rng.uniform(0, 0.08))
        assert process.poll() is None, f"the server did not start: {self.own.tail()}"
        process.send_signal(signal.SIGKILL)
        process.wait()

    def check(self) -> None:
        drain = self.rng.random() < 0.4
        client = Client(self.own.endpoint)
        dead = self.contents("overflows", drain) + self.contents("rejects", drain) + self.contents("dead", drain)
        for queue, ledger in self.ledgers.items():
            found = dead if queue == "dead" else self.contents(queue, drain)
            names = [name(body) for body in found]
            ledger.check(queue, names, once=queue != "dead")
            if queue.startswith("plain"):
                assert names == sorted(names, key=order), f"{queue}: out of order"
        a, b = self.ledgers["tx-a"].published, self.ledgers["tx-b"].published
        assert a == b, f"half a transaction: {sorted(a ^ b)[:5]}"
        self.check_definitions()
        client.call(spec.Queue.Purge(queue="marks"), spec.Queue.PurgeOk)
        client.close()
        if drain:
            for queue, ledger in self.ledgers.items():
                ledger.__init__()
            client = Client(self.own.endpoint)
            for queue in [*self.ledgers, "overflows", "rejects"]:
                ok = client.call(spec.Queue.Declare(queue=queue, passive=True), spec.Queue.DeclareOk)
                assert ok.message_count == 0, f"{queue}: {ok.message_count} left after all was acknowledged"
            client.close()

    def contents(self, queue: str, drain: bool) -> list[bytes]:
        """All that waits in a queue, acknowledged or given back; each must be flagged."""
        client = Client(self.own.endpoint)
        count = client.call(spec.Queue.Declare(queue=queue, passive=True), spec.Queue.DeclareOk).message_count
        bodies, last = [], 0
        if count:
            client.call(spec.Basic.Consume(queue=queue), spec.Basic.ConsumeOk)
        while len(bodies) < count:
            for one in client.wait_deliveries():
                # A dead letter may have been on its way, and have arrived only after the restart.
                assert one.redelivered or queue == "dead", f"{queue}: {one.body[:30]!r} is not flagged redelivered"
                bodies.append(one.body)
                last = one.tag
        if drain and last:
            client.ack(last)
            client.call(spec.Basic.Qos(prefetch_count=0), spec.Basic.QosOk)
        client.close()
        if not drain:
            self.settle_back(queue, count)
        return bodies

    def settle_back(self, queue: str, count: int) -> None:
        client = Client(self.own.endpoint)
        for _ in range(2000):
            if client.call(spec.Queue.Declare(queue=queue, passive=True), spec.Queue.DeclareOk).message_count >= count:
                client.close()
                return
            time.sleep(0.005)
        raise AssertionError(f"{queue}: what a closed connection held did not come back")

    def check_definitions(self) -> None:
        def listed(path: str) -> list[dict]:
            with urllib.request.urlopen(f"{self.own.http}/api/v1/{path}", timeout=20) as answer:
                return json.load(answer)

        queues = {one["name"] for one in listed("queues")}
        bound = {one["destination"] for one in listed("bindings") if one["source"] == "amq.topic"}
        names = queues | {one["name"] for one in listed("policies")} | {one["name"] for one in listed("users")}
        for defined, there in self.definitions.items():
            if there is None:
                # A queue that was declared and not bound yet stays undecided, and is declared again.
                if (defined in names) == (defined in bound):
                    self.definitions[defined] = defined in bound
                continue
            assert (defined in names) == there, f"{defined} should be {'there' if there else 'gone'} and is not"
            if defined.startswith("defined"):
                assert (defined in bound) == there, f"the binding of {defined} is wrong"


def name(body: bytes) -> bytes:
    """A body without its padding; damage shows."""
    head, _, padding = body.rpartition(b".")
    assert not padding.strip(b"x"), f"damaged: {body[:60]!r}"
    return head


def order(named: bytes) -> tuple[int, bytes]:
    who, _, number = named.partition(b".")
    return int(who[1:]), number


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=None, help="repeats the choices, not the timing")
    parser.add_argument("--lie", choices=["lost", "undone", "half"], help="claim what is not so: the run must fail")
    options = parser.parse_args()
    seed = random.randrange(1 << 32) if options.seed is None else options.seed
    world = World(seed, options.lie)
    print(f"seed {seed}, {options.rounds} rounds, {world.own.dir}", flush=True)
    world.own.start()
    try:
        world.prepare()
        for number in range(options.rounds):
            world.round()
            log = world.own.log.read_text(errors="replace")
            assert "panicked" not in log, "the server panicked"
            print(f"round {number + 1}: {world.total} confirmed so far", flush=True)
        assert world.total > 0
    except Exception:  # noqa: BLE001
        traceback.print_exc()
        if world.own.alive():
            world.own.kill()
        if options.lie:
            world.own.remove()
            return 1
        print(f"failed with seed {seed}; data and log are kept in {world.own.dir}", file=sys.stderr)
        return 1
    world.own.kill()
    world.own.remove()
    return 0


if __name__ == "__main__":
    sys.exit(main())
