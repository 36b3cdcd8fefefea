import static java.nio.charset.StandardCharsets.UTF_8;

import java.time.Duration;
import java.util.*;
import java.util.concurrent.ExecutionException;
import org.apache.kafka.clients.admin.*;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.acl.*;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.errors.*;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.quota.*;
import org.apache.kafka.common.resource.*;
import org.apache.kafka.common.serialization.*;

/** Exercises a broker through Kafka's own client: BROKER is open, SASL_BROKER asks for a user by MECHANISMS. */
public final class Main {
  static final String BROKER = System.getenv("BROKER");
  // Recent: what is older than a topic keeps goes at once.
  static final long BASE = System.currentTimeMillis() - 3_600_000;
  static Admin admin;

  public static void main(String[] args) throws Exception {
    admin = Admin.create(at(BROKER));
    topicsAndConfigs();
    codecsKeysHeadersTimes();
    largeMessages();
    groups();
    newerGroups();
    transactions();
    sasl();
    aclsAndQuotas();
    admin.deleteTopics(List.of("java", "java-large")).all().get();
    check(!admin.listTopics().names().get().contains("java"), "deleted topics are gone");
    admin.close();
    System.out.println("all good");
  }

  static Map<String, Object> at(String broker) {
    return new HashMap<>(Map.of("bootstrap.servers", broker));
  }

  static KafkaProducer<byte[], byte[]> producer(Map<String, Object> more) {
    Map<String, Object> config = at(BROKER);
    config.putAll(more);
    return new KafkaProducer<>(config, new ByteArraySerializer(), new ByteArraySerializer());
  }

  static KafkaConsumer<byte[], byte[]> consumer(Map<String, Object> more) {
    Map<String, Object> config = at(BROKER);
    config.putAll(Map.of("auto.offset.reset", "earliest", "session.timeout.ms", 8000));
    config.putAll(more);
    return new KafkaConsumer<>(config, new ByteArrayDeserializer(), new ByteArrayDeserializer());
  }

  static List<ConsumerRecord<byte[], byte[]>> read(Consumer<byte[], byte[]> from, int count) {
    List<ConsumerRecord<byte[], byte[]>> all = new ArrayList<>();
    long until = System.nanoTime() + 30_000_000_000L;
    while (all.size() < count) {
      check(System.nanoTime() < until, "records come, " + all.size() + " of " + count);
      from.poll(Duration.ofMillis(100)).forEach(all::add);
    }
    return all;
  }

  static void topicsAndConfigs() throws Exception {
    NewTopic topic = new NewTopic("java", 2, (short) 1).configs(Map.of("retention.ms", "600000"));
    admin.createTopics(List.of(topic)).all().get();
    refused(TopicExistsException.class, () -> admin.createTopics(List.of(topic)).all().get());
    NewTopic three = new NewTopic("three", 1, (short) 3);
    refused(InvalidReplicationFactorException.class, () -> admin.createTopics(List.of(three)).all().get());
    admin.createPartitions(Map.of("java", NewPartitions.increaseTo(4))).all().get();
    check(admin.describeTopics(List.of("java")).allTopicNames().get().get("java").partitions().size() == 4, "grown");
    ConfigResource resource = new ConfigResource(ConfigResource.Type.TOPIC, "java");
    var set = new AlterConfigOp(new ConfigEntry("retention.ms", "700000"), AlterConfigOp.OpType.SET);
    admin.incrementalAlterConfigs(Map.of(resource, List.of(set))).all().get();
    Config config = admin.describeConfigs(List.of(resource)).all().get().get(resource);
    check(config.get("retention.ms").value().equals("700000"), "configured");
    check(admin.describeCluster().nodes().get().size() == 1, "one node");
    check(!admin.describeLogDirs(List.of(0)).allDescriptions().get().isEmpty(), "log directories");
  }

  static void codecsKeysHeadersTimes() throws Exception {
    for (String codec : List.of("none", "gzip", "snappy", "lz4", "zstd")) {
      String topic = "java-" + codec;
      boolean idempotent = !codec.equals("none");
      try (var producer = producer(Map.of("compression.type", codec, "linger.ms", 20, "enable.idempotence", idempotent))) {
        for (int n = 0; n < 500; n++) {
          var headers = List.<org.apache.kafka.common.header.Header>of(
              new RecordHeader("h", "1".getBytes()), new RecordHeader("h", "2".getBytes()));
          byte[] value = ("v".repeat(200) + n).getBytes(UTF_8);
          producer.send(new ProducerRecord<>(topic, 0, BASE + n * 1000L, ("k" + n).getBytes(UTF_8), value, headers));
        }
        producer.flush();
      }
      TopicPartition partition = new TopicPartition(topic, 0);
      try (var consumer = consumer(Map.of())) {
        consumer.assign(List.of(partition));
        consumer.seekToBeginning(List.of(partition));
        var records = read(consumer, 500);
        for (int n = 0; n < 500; n++) {
          check(records.get(n).offset() == n && records.get(n).timestamp() == BASE + n * 1000L, "offset and time " + n);
        }
        var seventh = records.get(7);
        check(new String(seventh.key()).equals("k7") && new String(seventh.value()).endsWith("v7"), "key and value");
        var headers = seventh.headers().toArray();
        check(headers.length == 2 && new String(headers[1].value()).equals("2"), "headers, also twice the same");
        var found = consumer.offsetsForTimes(Map.of(partition, BASE + 3500)).get(partition);
        check(found.offset() == 4 && found.timestamp() == BASE + 4000, "offset by time");
        check(consumer.offsetsForTimes(Map.of(partition, BASE + 1_000_000_000L)).get(partition) == null, "no later one");
      }
    }
    TopicPartition partition = new TopicPartition("java-none", 0);
    var deleted = admin.deleteRecords(Map.of(partition, RecordsToDelete.beforeOffset(5)));
    check(deleted.lowWatermarks().get(partition).get().lowWatermark() == 5, "deleted records");
    try (var consumer = consumer(Map.of())) {
      check(consumer.beginningOffsets(List.of(partition)).get(partition) == 5, "begins later");
      check(consumer.endOffsets(List.of(partition)).get(partition) == 500, "ends where it did");
    }
  }

  static void largeMessages() throws Exception {
    NewTopic topic = new NewTopic("java-large", 1, (short) 1).configs(Map.of("max.message.bytes", "6000000"));
    admin.createTopics(List.of(topic)).all().get();
    try (var producer = producer(Map.of("max.request.size", 8_000_000))) {
      producer.send(new ProducerRecord<>("java-large", new byte[5_000_000])).get();
      refused(RecordTooLargeException.class,
          () -> producer.send(new ProducerRecord<>("java-large", new byte[6_500_000])).get());
    }
    try (var consumer = consumer(Map.of("max.partition.fetch.bytes", 1000, "group.id", "java-large"))) {
      consumer.subscribe(List.of("java-large"));
      check(read(consumer, 1).get(0).value().length == 5_000_000, "larger than what is asked for at once");
    }
  }

  static void groups() throws Exception {
    send("java", 25);
    var assignor = CooperativeStickyAssignor.class.getName();
    Map<String, Object> group = Map.of("group.id", "java-group", "partition.assignment.strategy", assignor);
    try (var first = consumer(group); var second = consumer(group)) {
      first.subscribe(List.of("java"));
      check(read(first, 100).size() == 100, "all to the only member");
      first.commitSync();
      second.subscribe(List.of("java"));
      long until = System.nanoTime() + 30_000_000_000L;
      while (first.assignment().size() != 2 || second.assignment().size() != 2) {
        check(System.nanoTime() < until, "two members share");
        check(first.poll(Duration.ofMillis(50)).isEmpty() && second.poll(Duration.ofMillis(50)).isEmpty(), "none twice");
      }
      var described = admin.describeConsumerGroups(List.of("java-group")).all().get().get("java-group");
      check(described.members().size() == 2, "two members are shown");
      send("java", 5);
      check(read(first, 10).size() + read(second, 10).size() == 20, "each reads its own");
    }
    var committed = admin.listConsumerGroupOffsets("java-group").partitionsToOffsetAndMetadata().get();
    check(committed.values().stream().allMatch(o -> o.offset() == 30), "committed when they left");
    send("java", 1);
    try (var again = consumer(group)) {
      again.subscribe(List.of("java"));
      check(read(again, 4).stream().allMatch(r -> r.offset() == 30), "goes on where it was");
    }
    var back = Map.of(new TopicPartition("java", 0), new OffsetAndMetadata(3));
    admin.alterConsumerGroupOffsets("java-group", back).all().get();
    admin.deleteConsumerGroups(List.of("java-group")).all().get();
  }

  static void newerGroups() throws Exception {
    admin.createTopics(List.of(new NewTopic("java-newer", 4, (short) 1))).all().get();
    send("java-newer", 25);
    Map<String, Object> group = Map.of("group.id", "java-newer", "group.protocol", "consumer");
    try (var first = newer(group); var second = newer(group)) {
      first.subscribe(List.of("java-newer"));
      check(read(first, 100).size() == 100, "all to the only member");
      second.subscribe(new org.apache.kafka.clients.consumer.SubscriptionPattern("java-new.*"));
      long until = System.nanoTime() + 40_000_000_000L;
      while (first.assignment().size() != 2 || second.assignment().size() != 2) {
        check(System.nanoTime() < until, "two members share");
        first.poll(Duration.ofMillis(50));
        second.poll(Duration.ofMillis(50));
      }
      first.commitSync();
      var described = admin.describeConsumerGroups(List.of("java-newer")).all().get().get("java-newer");
      check(described.members().size() == 2 && described.type() == org.apache.kafka.common.GroupType.CONSUMER, "shown");
    }
  }

  static KafkaConsumer<byte[], byte[]> newer(Map<String, Object> more) {
    Map<String, Object> config = at(BROKER);
    config.put("auto.offset.reset", "earliest");
    config.putAll(more);
    return new KafkaConsumer<>(config, new ByteArrayDeserializer(), new ByteArrayDeserializer());
  }

  static void transactions() throws Exception {
    admin.createTopics(List.of(new NewTopic("java-sink", 1, (short) 1))).all().get();
    Map<String, Object> id = Map.of("transactional.id", "java-id");
    try (var first = producer(id); var second = producer(id)) {
      first.initTransactions();
      for (String word : List.of("kept", "dropped", "last")) {
        first.beginTransaction();
        first.send(new ProducerRecord<>("java-sink", word.getBytes(UTF_8)));
        var offsets = Map.of(new TopicPartition("java", 0), new OffsetAndMetadata(word.length()));
        first.sendOffsetsToTransaction(offsets, new ConsumerGroupMetadata("java-transactions"));
        if (word.equals("dropped")) first.abortTransaction(); else first.commitTransaction();
      }
      first.beginTransaction();
      first.send(new ProducerRecord<>("java-sink", "fenced".getBytes(UTF_8))).get();
      second.initTransactions();
      try {
        first.commitTransaction();
        throw new AssertionError("the first one was to be fenced");
      } catch (ProducerFencedException | InvalidProducerEpochException e) {
        // As it should be.
      }
      second.beginTransaction();
      second.send(new ProducerRecord<>("java-sink", "second".getBytes(UTF_8)));
      second.commitTransaction();
    }
    try (var consumer = consumer(Map.of("isolation.level", "read_committed"))) {
      consumer.assign(List.of(new TopicPartition("java-sink", 0)));
      var words = read(consumer, 3).stream().map(r -> new String(r.value(), UTF_8)).toList();
      check(words.equals(List.of("kept", "last", "second")), "committed records only, not " + words);
    }
    var committed = admin.listConsumerGroupOffsets("java-transactions").partitionsToOffsetAndMetadata().get();
    check(committed.get(new TopicPartition("java", 0)).offset() == 4, "offsets of what was committed last");
    var described = admin.describeTransactions(List.of("java-id")).all().get().get("java-id");
    check(described.state() == TransactionState.COMPLETE_COMMIT, "described, not " + described);
  }

  static void send(String topic, int count) {
    try (var producer = producer(Map.of())) {
      for (int n = 0; n < 4 * count; n++) producer.send(new ProducerRecord<>(topic, n % 4, null, new byte[] {(byte) n}));
    }
  }

  static void sasl() throws Exception {
    for (String mechanism : System.getenv("MECHANISMS").split(",")) {
      String module = mechanism.equals("PLAIN") ? "plain.Plain" : "scram.Scram";
      for (String password : List.of(System.getenv("SASL_PASSWORD"), "wrong")) {
        Map<String, Object> config = at(System.getenv("SASL_BROKER"));
        config.putAll(Map.of("security.protocol", "SASL_PLAINTEXT", "sasl.mechanism", mechanism, "sasl.jaas.config",
            "org.apache.kafka.common.security." + module + "LoginModule required username=\""
                + System.getenv("SASL_USER") + "\" password=\"" + password + "\";"));
        try (var as = Admin.create(config)) {
          if (password.equals("wrong")) {
            refused(SaslAuthenticationException.class, () -> as.listTopics().names().get());
          } else {
            as.listTopics().names().get();
          }
        }
      }
    }
  }

  static void aclsAndQuotas() throws Exception {
    var pattern = new ResourcePattern(ResourceType.TOPIC, "java-acl", PatternType.PREFIXED);
    var rule = new AclBinding(pattern, new AccessControlEntry("User:ann", "*", AclOperation.READ, AclPermissionType.ALLOW));
    admin.createAcls(List.of(rule)).all().get();
    check(admin.describeAcls(AclBindingFilter.ANY).values().get().contains(rule), "the rule is there");
    check(admin.deleteAcls(List.of(rule.toFilter())).all().get().size() == 1, "and goes");
    var entity = new ClientQuotaEntity(Map.of(ClientQuotaEntity.CLIENT_ID, "java-slow"));
    var set = new ClientQuotaAlteration(entity, List.of(new ClientQuotaAlteration.Op("consumer_byte_rate", 5e4)));
    admin.alterClientQuotas(List.of(set)).all().get();
    var only = ClientQuotaFilter.containsOnly(List.of(ClientQuotaFilterComponent.ofEntity("client-id", "java-slow")));
    check(admin.describeClientQuotas(only).entities().get().get(entity).get("consumer_byte_rate") == 5e4, "the quota");
    // 200 kB at 50 kB a second, of which the first is free: answers that are throttled are answers all the same.
    try (var producer = producer(Map.of())) {
      for (int n = 0; n < 4; n++) producer.send(new ProducerRecord<>("java-slow", new byte[50_000])).get();
    }
    long begun = System.nanoTime();
    try (var consumer = consumer(Map.of("client.id", "java-slow", "max.partition.fetch.bytes", 50_000))) {
      consumer.assign(List.of(new TopicPartition("java-slow", 0)));
      consumer.seekToBeginning(consumer.assignment());
      read(consumer, 4);
    }
    check(System.nanoTime() - begun > 1_500_000_000L, "held back");
    // A session of fetches that a thousand partitions share, of which one has something.
    admin.createTopics(List.of(new NewTopic("java-many", 1000, (short) 1))).all().get();
    try (var consumer = consumer(Map.of()); var producer = producer(Map.of())) {
      List<TopicPartition> all = new ArrayList<>();
      for (int n = 0; n < 1000; n++) all.add(new TopicPartition("java-many", n));
      consumer.assign(all);
      consumer.seekToBeginning(all);
      for (int n : new int[] {7, 999, 0, 7}) {
        producer.send(new ProducerRecord<>("java-many", n, null, new byte[] {1})).get();
        check(read(consumer, 1).get(0).partition() == n, "of the right partition");
      }
    }
    var operations = admin.describeTopics(List.of("java-slow"), new DescribeTopicsOptions().includeAuthorizedOperations(true));
    check(operations.allTopicNames().get().get("java-slow").authorizedOperations().contains(AclOperation.WRITE), "may write");
  }

  interface Attempt {
    void run() throws Exception;
  }

  static void refused(Class<? extends Throwable> by, Attempt attempt) throws Exception {
    try {
      attempt.run();
    } catch (ExecutionException e) {
      check(by.isInstance(e.getCause()), by.getSimpleName() + ", not " + e.getCause());
      return;
    }
    throw new AssertionError(by.getSimpleName() + " was expected");
  }

  static void check(boolean holds, String what) {
    if (!holds) throw new AssertionError(what);
  }
}
