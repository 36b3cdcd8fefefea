// Kafka Streams against the broker of $BROKER: state stores and their topics, windows, joins, instances that come and go.
// With the argument "count" it is an application that counts words, exactly once, until its standard input ends.


import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.TreeMap;
import java.util.concurrent.atomic.AtomicLong;
import java.util.function.BooleanSupplier;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.serialization.Deserializer;
import org.apache.kafka.common.serialization.LongDeserializer;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.KeyValue;
import org.apache.kafka.streams.StoreQueryParameters;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.errors.InvalidStateStoreException;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.JoinWindows;
import org.apache.kafka.streams.kstream.KTable;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.kstream.Suppressed;
import org.apache.kafka.streams.kstream.TimeWindows;
import org.apache.kafka.streams.processor.StateRestoreListener;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.QueryableStoreTypes;
import org.apache.kafka.streams.state.ReadOnlyKeyValueStore;

public class Streams {
  static final String BROKER = System.getenv("BROKER");
  static final List<String> WORDS = List.of("to", "be", "or", "not", "that", "is", "the", "question");
  static final long MINUTE = 60_000;
  static Admin admin;

  public static void main(String[] arguments) throws Exception {
    if (List.of(arguments).contains("count")) {
      countUntilTold();
      return;
    }
    admin = Admin.create(Map.of("bootstrap.servers", BROKER));
    countsSurviveTheirInstances();
    windows();
    joins();
    admin.close();
    System.out.println("all good");
  }

  static void countUntilTold() throws Exception {
    try (var streams = started("count", "exactly_once_v2", counting(), new AtomicLong())) {
      while (System.in.read() >= 0) {}
    }
  }

  static Topology counting() {
    var builder = new StreamsBuilder();
    builder.<String, String>stream("count-in")
        .flatMapValues(line -> List.of(line.split(" ")))
        .groupBy((key, word) -> word)
        .count(Materialized.<String, Long, KeyValueStore<Bytes, byte[]>>as("counts"))
        .toStream()
        .to("count-out", Produced.with(Serdes.String(), Serdes.Long()));
    return builder.build();
  }

  // A count for each word in its order, each once: nothing is counted twice or lost when instances come, go and lose their disks.
  static void countsSurviveTheirInstances() throws Exception {
    topics("count-in", 4);
    topics("count-out", 4);
    var restored = new AtomicLong();
    var first = started("count", "exactly_once_v2", counting(), restored);
    Map<String, Long> expected = lines(1, 200);
    until(() -> counts(first).equals(expected), "one instance counts all");
    check(restored.get() == 0, "nothing to restore");
    check(configured("count-counts-changelog", "cleanup.policy").equals("compact"), "the changelog is compacted");
    check(configured("count-counts-repartition", "cleanup.policy").equals("delete"), "what is repartitioned is not");
    check(configured("count-counts-repartition", "retention.ms").equals("-1"), "and stays until it is deleted");

    var second = started("count", "exactly_once_v2", counting(), restored);
    until(() -> tasks(first) > 0 && tasks(second) > 0 && tasks(first) + tasks(second) == 8, "two instances share");
    merge(expected, lines(201, 300));
    until(() -> sum(counts(first), counts(second)).equals(expected), "both count");
    check(restored.get() > 0, "the second one has restored its share");

    first.close(Duration.ofSeconds(30));
    first.cleanUp();
    until(() -> tasks(second) == 8, "one is left");
    merge(expected, lines(301, 400));
    until(() -> counts(second).equals(expected), "and goes on for the other");
    second.close(Duration.ofSeconds(30));
    second.cleanUp();

    restored.set(0);
    try (var third = started("count", "exactly_once_v2", counting(), restored)) {
      until(() -> counts(third).equals(expected), "everything comes back from the changelog");
      check(restored.get() >= WORDS.size(), "it was restored");
    }
    var all = read("count-out", new LongDeserializer(), expected.values().stream().mapToInt(Long::intValue).sum());
    var seen = new HashMap<String, Long>();
    for (var record : all) {
      check(record.value().equals(seen.merge(record.key(), 1L, Long::sum)), record.key() + " counts " + record.value());
    }
    check(seen.equals(expected), "each count is there once");
  }

  static void windows() throws Exception {
    topics("clicks", 2);
    topics("clicks-per-minute", 1);
    var builder = new StreamsBuilder();
    builder.<String, String>stream("clicks")
        .groupByKey(Grouped.with(Serdes.String(), Serdes.String()))
        .windowedBy(TimeWindows.ofSizeWithNoGrace(Duration.ofMinutes(1)))
        .count(Materialized.as("clicked"))
        .suppress(Suppressed.untilWindowCloses(Suppressed.BufferConfig.unbounded()))
        .toStream()
        .map((window, count) -> KeyValue.pair(window.key() + "@" + window.window().start(), count))
        .to("clicks-per-minute", Produced.with(Serdes.String(), Serdes.Long()));
    long begun = System.currentTimeMillis() / MINUTE * MINUTE - 10 * MINUTE;
    try (var streams = started("windows", "at_least_once", builder.build(), new AtomicLong());
        var producer = producer()) {
      for (int n = 0; n < 90; n++) {
        for (String who : List.of("ann", "bob", "cid")) {
          producer.send(new ProducerRecord<>("clicks", null, begun + n * 2000L, who, "click"));
        }
      }
      // Time goes on in both partitions only by records.
      for (int partition : List.of(0, 1)) {
        producer.send(new ProducerRecord<>("clicks", partition, begun + 5 * MINUTE, "nobody", "click"));
      }
      producer.flush();
      var seen = new TreeMap<String, Long>();
      read("clicks-per-minute", new LongDeserializer(), 9).forEach(r -> seen.put(r.key(), r.value()));
      var expected = new TreeMap<String, Long>();
      for (String who : List.of("ann", "bob", "cid")) {
        for (int minute = 0; minute < 3; minute++) expected.put(who + "@" + (begun + minute * MINUTE), 30L);
      }
      check(seen.equals(expected), "thirty in each minute, not " + seen);
    }
    check(configured("windows-clicked-changelog", "cleanup.policy").contains("delete"), "old windows are deleted");
  }

  static void joins() throws Exception {
    for (String topic : List.of("orders", "payments", "customers", "products", "orders-paid", "orders-named", "orders-priced")) {
      topics(topic, 2);
    }
    topics("currencies", 1);
    var builder = new StreamsBuilder();
    var strings = Consumed.with(Serdes.String(), Serdes.String());
    var orders = builder.stream("orders", strings);
    var payments = builder.stream("payments", strings);
    var within = JoinWindows.ofTimeDifferenceWithNoGrace(Duration.ofMinutes(5));
    orders.join(payments, (order, payment) -> order + "+" + payment, within).to("orders-paid");
    // By another key: the stream is repartitioned first. By all of another topic: it is not.
    KTable<String, String> customers = builder.table("customers", strings);
    var currencies = builder.globalTable("currencies", strings);
    orders.selectKey((id, order) -> order.split(":")[0])
        .repartition()
        .join(customers, (order, name) -> order + "+" + name)
        .join(currencies, (customer, order) -> "eur", (order, sign) -> order + sign)
        .to("orders-named");
    // By what the value says: Streams sends subscriptions and answers through topics of its own.
    KTable<String, String> products = builder.table("products", strings);
    orders.toTable()
        .join(products, order -> order.split(":")[1], (order, price) -> order + "=" + price)
        .toStream()
        .to("orders-priced");
    long now = System.currentTimeMillis();
    try (var producer = producer()) {
      producer.send(new ProducerRecord<>("currencies", null, now - MINUTE, "eur", "€"));
      for (int n = 0; n < 10; n++) {
        producer.send(new ProducerRecord<>("customers", null, now - MINUTE, "c" + n, "name" + n));
        producer.send(new ProducerRecord<>("products", null, now - MINUTE, "p" + n, "" + 100 * n));
      }
      producer.flush();
      try (var streams = started("joins", "exactly_once_v2", builder.build(), new AtomicLong())) {
        for (int n = 0; n < 50; n++) {
          producer.send(new ProducerRecord<>("orders", null, now + n, "o" + n, "c" + n % 10 + ":p" + n / 10));
          producer.send(new ProducerRecord<>("payments", null, now + n + 1000, "o" + n, "paid"));
        }
        producer.flush();
        var paid = values("orders-paid", 50);
        var named = values("orders-named", 50);
        var priced = values("orders-priced", 50);
        for (int n = 0; n < 50; n++) {
          String order = "c" + n % 10 + ":p" + n / 10;
          check(paid.contains(order + "+paid"), "paid " + order);
          check(named.contains(order + "+name" + n % 10 + "€"), "named " + order);
          check(priced.contains(order + "=" + 100 * (n / 10)), "priced " + order);
        }
        producer.send(new ProducerRecord<>("products", null, now + 2000, "p4", "1"));
        producer.flush();
        until(() -> values("orders-priced", 60).stream().filter(v -> v.endsWith("p4=1")).count() == 10, "a new price");
      }
    }
  }

  static KafkaStreams started(String application, String guarantee, Topology topology, AtomicLong restored) throws Exception {
    Path state = Files.createTempDirectory(Path.of(System.getenv("STATE")), application);
    var settings = new Properties();
    settings.putAll(Map.of(
        "bootstrap.servers", BROKER,
        "application.id", application,
        "state.dir", state.toString(),
        "processing.guarantee", guarantee,
        "default.key.serde", Serdes.StringSerde.class.getName(),
        "default.value.serde", Serdes.StringSerde.class.getName(),
        // Each change is sent on, and soon.
        "statestore.cache.max.bytes", 0,
        "commit.interval.ms", 100));
    settings.putAll(Map.of("auto.offset.reset", "earliest", "num.stream.threads", 2, "session.timeout.ms", 10_000));
    settings.putAll(Map.of("heartbeat.interval.ms", 500, "producer.linger.ms", 5));
    var streams = new KafkaStreams(topology, settings);
    streams.setUncaughtExceptionHandler(failure -> {
      failure.printStackTrace();
      return StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
    });
    streams.setGlobalStateRestoreListener(new StateRestoreListener() {
      public void onRestoreStart(TopicPartition partition, String store, long from, long to) {}

      public void onBatchRestored(TopicPartition partition, String store, long end, long count) {
        restored.addAndGet(count);
      }

      public void onRestoreEnd(TopicPartition partition, String store, long total) {}
    });
    streams.start();
    return streams;
  }

  static int tasks(KafkaStreams streams) {
    return streams.metadataForLocalThreads().stream().mapToInt(thread -> thread.activeTasks().size()).sum();
  }

  static Map<String, Long> counts(KafkaStreams streams) {
    var found = new TreeMap<String, Long>();
    try {
      ReadOnlyKeyValueStore<String, Long> store =
          streams.store(StoreQueryParameters.fromNameAndType("counts", QueryableStoreTypes.keyValueStore()));
      try (var all = store.all()) {
        all.forEachRemaining(entry -> found.put(entry.key, entry.value));
      }
    } catch (InvalidStateStoreException e) {
      // On its way to another thread or instance.
    }
    return found;
  }

  static Map<String, Long> sum(Map<String, Long> one, Map<String, Long> other) {
    var both = new TreeMap<>(one);
    merge(both, other);
    return both;
  }

  static void merge(Map<String, Long> into, Map<String, Long> more) {
    more.forEach((word, count) -> into.merge(word, count, Long::sum));
  }

  // Writes lines of words; how often each word is in them.
  static Map<String, Long> lines(int from, int to) {
    var counted = new TreeMap<String, Long>();
    try (var producer = producer()) {
      for (int n = from; n <= to; n++) {
        List<String> line = new ArrayList<>();
        for (int word = 0; word < WORDS.size(); word++) if (n % (word + 1) == 0) line.add(WORDS.get(word));
        line.forEach(word -> counted.merge(word, 1L, Long::sum));
        producer.send(new ProducerRecord<>("count-in", n % 4, null, String.join(" ", line)));
      }
    }
    return counted;
  }

  static KafkaProducer<String, String> producer() {
    return new KafkaProducer<>(Map.of("bootstrap.servers", BROKER), new StringSerializer(), new StringSerializer());
  }

  static void topics(String name, int partitions) throws Exception {
    admin.createTopics(List.of(new NewTopic(name, partitions, (short) 1))).all().get();
  }

  static String configured(String topic, String setting) throws Exception {
    var resource = new ConfigResource(ConfigResource.Type.TOPIC, topic);
    return admin.describeConfigs(List.of(resource)).all().get().get(resource).get(setting).value();
  }

  static List<String> values(String topic, int count) {
    return read(topic, new StringDeserializer(), count).stream().map(ConsumerRecord::value).toList();
  }

  // The first committed records of a topic, and all that come with them.
  static <V> List<ConsumerRecord<String, V>> read(String topic, Deserializer<V> values, int count) {
    Map<String, Object> settings = Map.of("bootstrap.servers", BROKER, "isolation.level", "read_committed");
    List<ConsumerRecord<String, V>> all = new ArrayList<>();
    try (var consumer = new KafkaConsumer<>(settings, new StringDeserializer(), values)) {
      var partitions = consumer.partitionsFor(topic).stream().map(p -> new TopicPartition(topic, p.partition())).toList();
      consumer.assign(partitions);
      consumer.seekToBeginning(partitions);
      until(() -> {
        consumer.poll(Duration.ofMillis(50)).forEach(all::add);
        return all.size() >= count;
      }, "records of " + topic);
      consumer.poll(Duration.ofMillis(300)).forEach(all::add);
    }
    return all;
  }

  static void until(BooleanSupplier holds, String what) {
    long until = System.nanoTime() + 60_000_000_000L;
    while (!holds.getAsBoolean()) {
      check(System.nanoTime() < until, what);
      try {
        Thread.sleep(20);
      } catch (InterruptedException e) {
        throw new AssertionError(e);
      }
    }
  }

  static void check(boolean holds, String what) {
    if (!holds) throw new AssertionError(what);
  }
}
