"""Kafka: who comes in by SCRAM and TLS, what access control lists and quotas let him do, as stock clients see it."""

import json
import shutil
import socket
import ssl
import subprocess
import time

import confluent_kafka
import kafka
import pytest
from confluent_kafka import admin as librdkafka
from kafka.admin import ACL, ACLFilter, ACLOperation, ACLPermissionType, NewTopic, ResourcePattern
from kafka.admin import ACLResourcePatternType as PatternType
from kafka.admin import ResourcePatternFilter, ResourceType
from kafka.protocol.admin import AlterClientQuotasRequest, DescribeClientQuotasRequest

from broker import Waypost
from topics import KAFKA

pytestmark = pytest.mark.ours("Kafka")

MECHANISMS = ["SCRAM-SHA-256", "SCRAM-SHA-512"]


@pytest.fixture(scope="module")
def node():
    """A server that asks who comes, and asks again soon."""
    with Waypost.running(*KAFKA, "--kafka-auth", "always", "--kafka-session-lifetime", "3s") as server:
        yield server


@pytest.fixture
def user(node, name):
    """Makes users: user("^mine") may do everything with what begins so."""

    def make(pattern: str = "^$", password: str = "secret") -> str:
        made = name().replace(".", "-")
        node.cli("users", "add", made, "--password", password)
        node.cli("users", "permissions", "set", made, pattern, pattern, pattern)
        return made

    return make


def as_user(node: Waypost, who: str, password: str = "secret", mechanism: str = "SCRAM-SHA-256") -> dict:
    """For kafka-python."""
    return {
        "bootstrap_servers": node.kafka,
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_mechanism": mechanism,
        "sasl_plain_username": who,
        "sasl_plain_password": password,
    }


def rdkafka(node: Waypost, who: str, password: str = "secret", mechanism: str = "SCRAM-SHA-256") -> dict:
    """For librdkafka."""
    return {
        "bootstrap.servers": node.kafka,
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": mechanism,
        "sasl.username": who,
        "sasl.password": password,
    }


def administrator(node: Waypost) -> kafka.KafkaAdminClient:
    return kafka.KafkaAdminClient(**as_user(node, "guest", "guest"))


def topic(node: Waypost, name: str) -> str:
    client = administrator(node)
    client.create_topics([NewTopic(name, 1, 1)])
    client.close()
    return name


def send(node: Waypost, who: str, topic: str, value: bytes = b"x", **options) -> int:
    producer = kafka.KafkaProducer(**as_user(node, who), max_block_ms=5000, **options)
    try:
        return producer.send(topic, value).get(10).offset
    finally:
        producer.close(timeout=2)


def refused_by_librdkafka(settings: dict, seconds: float = 15) -> str:
    said: list[str] = []
    client = confluent_kafka.Producer(settings | {"error_cb": lambda error: said.append(str(error))})
    deadline = time.monotonic() + seconds
    while not said and time.monotonic() < deadline:
        client.poll(0.1)
    return said[0] if said else ""


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_scram_lets_in_who_knows_the_password(node, name, user, mechanism):
    who, where = user("^scram"), "scram." + name("t")
    producer = confluent_kafka.Producer(rdkafka(node, who, mechanism=mechanism))
    outcome = []
    producer.produce(where, b"hello", on_delivery=lambda error, _: outcome.append(error))
    assert producer.flush(20) == 0 and outcome == [None]
    consumer = kafka.KafkaConsumer(where, **as_user(node, who, mechanism=mechanism), auto_offset_reset="earliest",
                                   consumer_timeout_ms=10_000)
    assert next(consumer).value == b"hello"
    consumer.close()
    for stranger in ((who, "wrong"), ("nobody-" + who, "secret")):
        assert "_AUTHENTICATION" in refused_by_librdkafka(rdkafka(node, *stranger, mechanism=mechanism))
    # The user of a new data directory too.
    assert "guest" not in refused_by_librdkafka(rdkafka(node, "guest", "guest", mechanism), 1)


def test_credentials_are_set_shown_and_deleted_by_kafkas_own_tools(node, name):
    client = librdkafka.AdminClient(rdkafka(node, "guest", "guest"))
    who = name().replace(".", "-")
    scram = librdkafka.ScramMechanism.SCRAM_SHA_512
    info = librdkafka.ScramCredentialInfo(scram, 8192)
    made = librdkafka.UserScramCredentialUpsertion(who, info, b"first", b"salt of the earth")
    client.alter_user_scram_credentials([made])[who].result(20)
    shown = client.describe_user_scram_credentials([who])[who].result(20)
    assert [(i.mechanism, i.iterations) for i in shown.scram_credential_infos] == [(scram, 8192)]
    assert refused_by_librdkafka(rdkafka(node, who, "first", "SCRAM-SHA-512"), 2) == ""
    assert "_AUTHENTICATION" in refused_by_librdkafka(rdkafka(node, who, "first", "SCRAM-SHA-256"))
    few = librdkafka.ScramCredentialInfo(scram, 100)
    with pytest.raises(confluent_kafka.KafkaException, match="UNACCEPTABLE_CREDENTIAL"):
        weak = librdkafka.UserScramCredentialUpsertion(who, few, b"first", b"salt")
        client.alter_user_scram_credentials([weak])[who].result(20)
    gone = librdkafka.UserScramCredentialDeletion(who, scram)
    client.alter_user_scram_credentials([gone])[who].result(20)
    with pytest.raises(confluent_kafka.KafkaException, match="RESOURCE_NOT_FOUND"):
        client.alter_user_scram_credentials([gone])[who].result(20)
    with pytest.raises(confluent_kafka.KafkaException, match="RESOURCE_NOT_FOUND"):
        client.describe_user_scram_credentials([who])[who].result(20)
    assert "_AUTHENTICATION" in refused_by_librdkafka(rdkafka(node, who, "first", "SCRAM-SHA-512"))


def test_another_password_ends_the_old_one_by_proof_too(node, user):
    who = user()
    assert refused_by_librdkafka(rdkafka(node, who), 1.5) == ""
    node.cli("users", "passwd", who, "--password", "new")
    assert "_AUTHENTICATION" in refused_by_librdkafka(rdkafka(node, who))
    assert refused_by_librdkafka(rdkafka(node, who, "new"), 1.5) == ""


def test_a_session_goes_on_when_the_client_says_again_who_it_is(node, name, user):
    who, where = user("^long"), "long." + name("t")
    producer = confluent_kafka.Producer(rdkafka(node, who))
    errors, begun = [], time.monotonic()
    # Longer than a session: librdkafka says in time who it is.
    while time.monotonic() < begun + 8:
        producer.produce(where, b"x", on_delivery=lambda error, _: errors.append(error))
        producer.flush(10)
        time.sleep(0.2)
    assert len(errors) > 20 and set(errors) == {None}


def acl(who: str, operation: ACLOperation, name: str, kind=ResourceType.TOPIC, pattern=PatternType.LITERAL,
        effect=ACLPermissionType.ALLOW, host: str = "*") -> ACL:
    return ACL(f"User:{who}", host, operation, effect, ResourcePattern(kind, name, pattern))


def test_rules_are_made_found_and_removed(node, name):
    client, subject = administrator(node), name("t")
    rules = [
        acl("ann", ACLOperation.READ, subject),
        acl("ann", ACLOperation.WRITE, subject, effect=ACLPermissionType.DENY),
        acl("*", ACLOperation.ALL, subject, ResourceType.GROUP, PatternType.PREFIXED, host="127.0.0.1"),
    ]
    assert len(client.create_acls(rules)["succeeded"]) == 3

    def found(kind=ResourceType.ANY, pattern=PatternType.ANY, named=subject, who=None, operation=ACLOperation.ANY):
        what = ACLFilter(who, None, operation, ACLPermissionType.ANY, ResourcePatternFilter(kind, named, pattern))
        return client.describe_acls(what)[0]

    assert len(found()) == 3
    assert len(found(kind=ResourceType.TOPIC)) == 2
    assert len(found(pattern=PatternType.PREFIXED)) == 1
    assert [r.operation for r in found(operation=ACLOperation.READ)] == [ACLOperation.READ]
    # What speaks of a name, however it names it.
    matching = found(kind=ResourceType.GROUP, pattern=PatternType.MATCH, named=subject + "-and-more")
    assert [r.principal for r in matching] == ["User:*"]
    assert found(who="User:bob") == []
    gone = client.delete_acls([
        ACLFilter("User:ann", None, ACLOperation.ANY, ACLPermissionType.ANY,
                  ResourcePatternFilter(ResourceType.TOPIC, subject, PatternType.LITERAL))
    ])
    assert sum(len(one[1]) for one in gone) == 2 and len(found()) == 1
    client.close()


def test_rules_by_librdkafka(node, name):
    client, subject = librdkafka.AdminClient(rdkafka(node, "guest", "guest")), name("t")
    topic_of, pattern = librdkafka.ResourceType.TOPIC, librdkafka.ResourcePatternType.PREFIXED
    said = (librdkafka.AclOperation.READ, librdkafka.AclPermissionType.ALLOW)
    rule = librdkafka.AclBinding(topic_of, subject, pattern, "User:ann", "*", *said)
    client.create_acls([rule])[rule].result(20)
    wanted = librdkafka.AclBindingFilter(topic_of, subject, pattern, None, None, *said)
    assert client.describe_acls(wanted).result(20) == [rule]
    assert client.delete_acls([wanted])[wanted].result(20) == [rule]
    assert client.describe_acls(wanted).result(20) == []


def test_rules_decide_where_they_speak_and_permissions_elsewhere(node, name, user):
    client = administrator(node)
    shared, private = topic(node, name("shared")), topic(node, name("private"))
    ann, bob = user(".*"), user()
    assert send(node, ann, shared) == 0
    # Not permitted, by whatever way: not even to see it.
    with pytest.raises(kafka.errors.TopicAuthorizationFailedError):
        send(node, bob, shared)
    assert shared not in topics_of(node, bob)
    client.create_acls([acl(bob, ACLOperation.WRITE, shared)])
    assert send(node, bob, shared) == 1
    assert shared in topics_of(node, bob) and private not in topics_of(node, bob)
    # Somebody has said who may: Ann is not among them, her permission no longer counts there.
    with pytest.raises(kafka.errors.TopicAuthorizationFailedError):
        send(node, ann, shared)
    assert send(node, ann, private) == 0
    client.create_acls([acl("*", ACLOperation.ALL, shared), acl(ann, ACLOperation.WRITE, shared, effect=ACLPermissionType.DENY)])
    with pytest.raises(kafka.errors.TopicAuthorizationFailedError):
        send(node, ann, shared)
    assert read(node, ann, shared, None) == [b"x", b"x"]
    client.close()


def topics_of(node: Waypost, who: str) -> set[str]:
    consumer = kafka.KafkaConsumer(**as_user(node, who))
    try:
        return consumer.topics()
    finally:
        consumer.close()


def read(node: Waypost, who: str, topic: str, group: str | None) -> list[bytes]:
    consumer = kafka.KafkaConsumer(topic, **as_user(node, who), group_id=group, auto_offset_reset="earliest",
                                   consumer_timeout_ms=3000)
    try:
        return [record.value for record in consumer]
    finally:
        consumer.close()


def test_groups_have_rules_of_their_own(node, name, user):
    client, where, who, group = administrator(node), topic(node, name("t")), user(), name("g")
    client.create_acls([acl(who, ACLOperation.READ, where), acl(who, ACLOperation.WRITE, where)])
    send(node, who, where)
    with pytest.raises(kafka.errors.GroupAuthorizationFailedError):
        read(node, who, where, group)
    prefix = acl(who, ACLOperation.READ, group[:-1], ResourceType.GROUP, PatternType.PREFIXED)
    client.create_acls([prefix])
    assert read(node, who, where, group) == [b"x"]
    theirs = librdkafka.AdminClient(rdkafka(node, who))
    with pytest.raises(confluent_kafka.KafkaException, match="GROUP_AUTHORIZATION_FAILED"):
        theirs.delete_consumer_groups([group])[group].result(20)
    client.close()


def test_what_only_administrators_may(node, name, user):
    who = user(".*")
    rules = kafka.KafkaAdminClient(**as_user(node, who))
    every = ResourcePatternFilter(ResourceType.ANY, None, PatternType.ANY)
    whatever = ACLFilter(None, None, ACLOperation.ANY, ACLPermissionType.ANY, every)
    refused = kafka.errors.ClusterAuthorizationFailedError
    with pytest.raises(refused):
        rules.describe_acls(whatever)
    assert [why for _, _, why in rules.delete_acls([whatever])] == [refused]
    made = rules.create_acls([acl(who, ACLOperation.ALL, "kafka-cluster", ResourceType.CLUSTER)])
    assert made["failed"] == [refused]
    # Not by librdkafka, which does not survive the refusal.
    partition = kafka.TopicPartition("any", 0)
    for call in (
        lambda: rules.describe_user_scram_credentials([who]),
        lambda: rules.elect_leaders(0, {"any": [0]}),
        lambda: rules.alter_partition_reassignments({partition: [0]}),
        lambda: rules.list_partition_reassignments(),
        lambda: rules.list_config_resources(["TOPIC"]),
    ):
        with pytest.raises(refused):
            call()
    rules.close()
    client = administrator(node)
    client.create_acls([acl(who, ACLOperation.DESCRIBE, "kafka-cluster", ResourceType.CLUSTER)])
    theirs = librdkafka.AdminClient(rdkafka(node, who))
    assert theirs.describe_user_scram_credentials([who])[who].result(20).scram_credential_infos
    client.close()


def test_rules_and_credentials_outlive_a_restart(server, name):
    node = server(*KAFKA, "--kafka-auth", "always")
    node.start()
    node.cli("users", "add", "ann", "--password", "secret")
    where = topic(node, name("t"))
    client = administrator(node)
    client.create_acls([acl("ann", ACLOperation.WRITE, where)])
    client.close()
    for stop in (node.kill, node.stop):
        assert send(node, "ann", where) >= 0
        stop()
        node.start()
    assert send(node, "ann", where) == 2


def ask(node: Waypost, request):
    """An administrator's request that kafka-python has no method for."""
    client = administrator(node)
    try:
        return client._manager.run(client._manager.send, request)
    finally:
        client.close()


def set_quota(node: Waypost, entity: dict[str, str | None], **rates: float | None) -> int:
    request = AlterClientQuotasRequest
    names = [request.EntryData.EntityData(kind, name) for kind, name in entity.items()]
    ops = [request.EntryData.OpData(key, rate or 0.0, rate is None) for key, rate in rates.items()]
    return ask(node, request(entries=[request.EntryData(names, ops)], validate_only=False)).entries[0].error_code


def quotas(node: Waypost, *components: tuple[str, int, str | None], strict: bool = False) -> dict:
    request = DescribeClientQuotasRequest
    wanted = [request.ComponentData(*component) for component in components]
    found = ask(node, request(components=wanted, strict=strict))
    assert found.error_code == 0
    return {
        tuple((e.entity_type, e.entity_name) for e in entry.entity): {v.key: v.value for v in entry.values}
        for entry in found.entries
    }


def test_quotas_are_set_shown_and_removed(node, name):
    who = name().replace(".", "-")
    assert set_quota(node, {"user": who}, producer_byte_rate=1000.0, consumer_byte_rate=2000.0) == 0
    assert set_quota(node, {"user": who, "client-id": None}, producer_byte_rate=500.0) == 0
    both = {"producer_byte_rate": 1000.0, "consumer_byte_rate": 2000.0}
    assert quotas(node, ("user", 0, who), strict=True) == {(("user", who),): both}
    whole = quotas(node, ("user", 0, who))
    assert whole[("user", who), ("client-id", None)] == {"producer_byte_rate": 500.0} and len(whole) == 2
    assert quotas(node, ("user", 0, who), ("client-id", 1, None)).keys() == {(("user", who), ("client-id", None))}
    # What is not kept is refused: 42.
    assert set_quota(node, {"user": who}, request_percentage=10.0) == 42
    assert set_quota(node, {"ip": "127.0.0.1"}, connection_creation_rate=10.0) == 42
    assert set_quota(node, {"user": who}, producer_byte_rate=-1.0) == 42
    assert set_quota(node, {"user": who}, producer_byte_rate=None) == 0
    assert quotas(node, ("user", 0, who), strict=True) == {(("user", who),): {"consumer_byte_rate": 2000.0}}
    assert set_quota(node, {"user": who}, consumer_byte_rate=None) == 0
    assert quotas(node, ("user", 0, who), strict=True) == {}


def test_who_sends_more_than_his_quota_is_held_back(node, name, user):
    who, free = user("^quota"), user("^quota")
    where = topic(node, "quota." + name("t"))
    assert set_quota(node, {"user": who}, producer_byte_rate=100_000.0, consumer_byte_rate=200_000.0) == 0

    def seconds(by: str) -> float:
        producer = kafka.KafkaProducer(**as_user(node, by), batch_size=1, linger_ms=0)
        begun = time.monotonic()
        [producer.send(where, b"x" * 50_000).get(30) for _ in range(8)]
        took = time.monotonic() - begun
        producer.close()
        return took

    # 400 kB at 100 kB/s, the first second of it at once.
    assert 1.5 < seconds(who) < 10
    assert seconds(free) < 1.5
    begun = time.monotonic()
    assert len(read(node, who, where, None)) == 16
    assert time.monotonic() - begun > 1.5


def test_tls_with_scram(server, name, tmp_path):
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"

    def run(*command) -> None:
        made = subprocess.run(command, capture_output=True, text=True, timeout=30)
        assert made.returncode == 0, made.stderr

    run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext",
        "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", key, "-out", certificate)
    listeners = [f"127.0.0.1:0,tls={certificate}:{key},client-ca={certificate},advertise={one}" for one in ("localhost", "mq.invalid")]
    node = server("--kafka", listeners[0], "--kafka", listeners[1], "--kafka-auth", "always")
    node.start()
    node.cli("users", "add", "ann", "--password", "secret")
    node.cli("users", "permissions", "set", "ann", ".*", ".*", ".*")
    where = name("t")
    safe = rdkafka(node, "ann") | {"security.protocol": "SASL_SSL", "ssl.ca.location": str(certificate)}
    safe["bootstrap.servers"] = node.kafka.replace("127.0.0.1", "localhost")
    producer = confluent_kafka.Producer(safe)
    outcome = []
    producer.produce(where, b"hello", on_delivery=lambda error, _: outcome.append(error))
    assert producer.flush(20) == 0 and outcome == [None]
    settings = as_user(node, "ann") | {"security_protocol": "SASL_SSL", "ssl_cafile": str(certificate)}
    settings["bootstrap_servers"] = safe["bootstrap.servers"]
    consumer = kafka.KafkaConsumer(where, **settings, auto_offset_reset="earliest", consumer_timeout_ms=10_000)
    assert next(consumer).value == b"hello"
    consumer.close()
    # A certificate says who comes, without any password.
    other = tmp_path / "client"
    run("openssl", "req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=ann", "-keyout", f"{other}.key", "-out", f"{other}.csr")
    # Of version 3, as verifiers want it.
    (tmp_path / "extensions").write_text("basicConstraints=CA:FALSE\nextendedKeyUsage=clientAuth\n")
    run("openssl", "x509", "-req", "-extfile", tmp_path / "extensions", "-in", f"{other}.csr", "-CA", certificate, "-CAkey", key, "-CAcreateserial", "-days", "2",
        "-out", f"{other}.pem")
    shown = {
        "bootstrap.servers": safe["bootstrap.servers"],
        "security.protocol": "SSL",
        "ssl.ca.location": str(certificate),
        "ssl.certificate.location": f"{other}.pem",
        "ssl.key.location": f"{other}.key",
    }
    assert where in librdkafka.AdminClient(shown).list_topics(timeout=10).topics
    # Without it nobody has said anything.
    nobody = {key: value for key, value in shown.items() if key not in ("ssl.certificate.location", "ssl.key.location")}
    assert refused_by_librdkafka(nobody)
    # In plain text nothing is said.
    assert refused_by_librdkafka(rdkafka(node, "ann"))
    # Whoever asks for another name than he is told: a word of it stands in the log.
    assert "advertise=" not in node.tail()
    host, port = json.loads((node.data / "listeners.json").read_text())["kafka"][1].rsplit(":", 1)
    context = ssl.create_default_context(cafile=certificate)
    with context.wrap_socket(socket.create_connection((host, int(port)), 5), server_hostname="localhost"):
        deadline = time.monotonic() + 10
        while "asked for localhost" not in node.tail():
            assert time.monotonic() < deadline, node.tail()
            time.sleep(0.05)
    assert "mq.invalid" in node.tail() and "advertise=" in node.tail()
