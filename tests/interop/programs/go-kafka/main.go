// Exercises a broker through franz-go: BROKER is open, SASL_BROKER asks for SASL_USER and SASL_PASSWORD by MECHANISMS.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"
)

var (
	ctx   = context.Background()
	admin *kadm.Client
	// Recent: what is older than a topic keeps goes at once.
	base = time.Now().Add(-time.Hour).Truncate(time.Second)
)

func check(holds bool, what string, more ...any) {
	if !holds {
		panic(what + " " + fmt.Sprint(more...))
	}
}

func must[T any](value T, err error) T {
	check(err == nil, "failed:", err)
	return value
}

func client(options ...kgo.Opt) *kgo.Client {
	return must(kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(os.Getenv("BROKER"))}, options...)...))
}

func text(s string) *string { return &s }

// read takes records until there are so many, or too much time has gone.
func read(from *kgo.Client, count int) (records []*kgo.Record) {
	within, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for len(records) < count {
		fetches := from.PollFetches(within)
		check(within.Err() == nil, "records come:", len(records), "of", count)
		fetches.EachError(func(topic string, partition int32, err error) { check(false, topic, partition, err) })
		records = append(records, fetches.Records()...)
	}
	return records
}

func readTopic(topic string, count int, options ...kgo.Opt) []*kgo.Record {
	from := client(append(options, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))...)
	defer from.Close()
	return read(from, count)
}

func values(records []*kgo.Record) (values []string) {
	for _, record := range records {
		values = append(values, string(record.Value))
	}
	return values
}

func topicsAndConfigs() {
	config := map[string]*string{"retention.ms": text("600000")}
	must(admin.CreateTopic(ctx, 2, 1, config, "go"))
	_, err := admin.CreateTopic(ctx, 2, 1, nil, "go")
	check(errors.Is(err, kerr.TopicAlreadyExists), "made once only:", err)
	_, err = admin.CreateTopic(ctx, 1, 3, nil, "three")
	check(errors.Is(err, kerr.InvalidReplicationFactor), "no replicas:", err)
	check(must(admin.UpdatePartitions(ctx, 4, "go")).Error() == nil, "grows")
	check(len(must(admin.ListTopics(ctx, "go"))["go"].Partitions) == 4, "four partitions")
	change := []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "retention.ms", Value: text("700000")}}
	altered := must(admin.AlterTopicConfigs(ctx, change, "go"))
	check(altered[0].Err == nil, "configured:", altered[0].Err)
	described := must(must(admin.DescribeTopicConfigs(ctx, "go")).On("go", nil))
	for _, config := range described.Configs {
		check(config.Key != "retention.ms" || *config.Value == "700000", "what was set is shown")
	}
	bad := []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "no.such", Value: text("1")}}
	check(must(admin.AlterTopicConfigs(ctx, bad, "go"))[0].Err != nil, "unknown names are refused")
}

func codecsKeysHeadersTimes() {
	codecs := map[string]kgo.CompressionCodec{
		"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(),
		"lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
	}
	for name, codec := range codecs {
		topic := "go-" + name
		must(admin.CreateTopic(ctx, 1, 1, nil, topic))
		options := []kgo.Opt{kgo.ProducerBatchCompression(codec), kgo.ProducerLinger(20 * time.Millisecond)}
		if name == "none" {
			options = append(options, kgo.DisableIdempotentWrite())
		}
		producer := client(options...)
		var sent []*kgo.Record
		for n := range 200 {
			sent = append(sent, &kgo.Record{
				Topic: topic, Key: fmt.Appendf(nil, "k\x00%d", n), Value: fmt.Appendf(nil, "%s%d", strings.Repeat("v", 200), n),
				Headers:   []kgo.RecordHeader{{Key: "h", Value: []byte("1")}, {Key: "h", Value: []byte{0xff, 0}}, {Key: "none"}},
				Timestamp: base.Add(time.Duration(n) * time.Second),
			})
		}
		check(producer.ProduceSync(ctx, sent...).FirstErr() == nil, "produced")
		producer.Close()
		for n, record := range readTopic(topic, 200) {
			check(record.Offset == int64(n) && record.Timestamp.Equal(sent[n].Timestamp), "offset and time of", n)
			check(bytes.Equal(record.Key, sent[n].Key) && bytes.Equal(record.Value, sent[n].Value), "key and value of", n)
			check(fmt.Sprint(record.Headers) == fmt.Sprint(sent[n].Headers), "headers:", record.Headers)
		}
		found := must(admin.ListOffsetsAfterMilli(ctx, base.UnixMilli()+3500, topic))[topic][0]
		check(found.Offset == 4 && found.Timestamp == base.UnixMilli()+4000, "offset by time:", found)
	}
	before := kadm.Offsets{}
	before.AddOffset("go-none", 0, 5, -1)
	check(must(admin.DeleteRecords(ctx, before))["go-none"][0].LowWatermark == 5, "deleted records")
	check(must(admin.ListStartOffsets(ctx, "go-none"))["go-none"][0].Offset == 5, "begins later")
	check(must(admin.ListEndOffsets(ctx, "go-none"))["go-none"][0].Offset == 200, "ends where it did")
}

func largeMessages() {
	must(admin.CreateTopic(ctx, 1, 1, map[string]*string{"max.message.bytes": text("6000000")}, "go-large"))
	producer := client(kgo.ProducerBatchMaxBytes(8_000_000), kgo.ProducerBatchCompression(kgo.NoCompression()))
	defer producer.Close()
	send := func(length int) error {
		return producer.ProduceSync(ctx, &kgo.Record{Topic: "go-large", Value: make([]byte, length)}).FirstErr()
	}
	check(send(5_000_000) == nil, "5 MB are taken")
	check(errors.Is(send(6_500_000), kerr.MessageTooLarge), "6.5 MB are not")
	large := readTopic("go-large", 1, kgo.FetchMaxPartitionBytes(1000))
	check(len(large[0].Value) == 5_000_000, "larger than what is asked for at once")
}

// groups goes through one protocol of groups: the classic one with cooperative rebalancing, or the newer one (KIP-848).
func groups(topic string, newer bool) {
	must(admin.CreateTopic(ctx, 4, 1, nil, topic))
	producer := client(kgo.RecordPartitioner(kgo.ManualPartitioner()))
	defer producer.Close()
	send := func(count int) {
		for n := range 4 * count {
			record := &kgo.Record{Topic: topic, Partition: int32(n % 4), Value: fmt.Append(nil, n)}
			check(producer.ProduceSync(ctx, record).FirstErr() == nil, "produced")
		}
	}
	member := func() *kgo.Client {
		options := []kgo.Opt{
			kgo.ConsumeTopics(topic), kgo.ConsumerGroup(topic), kgo.DisableAutoCommit(), kgo.SessionTimeout(8 * time.Second),
			kgo.HeartbeatInterval(500 * time.Millisecond), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		}
		if newer {
			options = append(options, kgo.ServerSideBalancer())
		}
		return client(options...)
	}
	send(10)
	first := member()
	read(first, 40)
	check(first.CommitUncommittedOffsets(ctx) == nil, "committed")
	if described := must(admin.DescribeConsumerGroups(ctx, topic)); newer {
		check(described[topic].Err == nil && len(described[topic].Members) == 1, "of the newer protocol:", described[topic].Err)
	}
	second := member()
	// They go on reading, or they would not hear of each other.
	seen := map[string]bool{}
	owners := map[int32]map[*kgo.Client]bool{}
	drain := func(from *kgo.Client) {
		within, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
		defer cancel()
		for _, record := range from.PollFetches(within).Records() {
			seen[fmt.Sprint(record.Partition, "/", record.Offset)] = true
			if owners[record.Partition] == nil {
				owners[record.Partition] = map[*kgo.Client]bool{}
			}
			owners[record.Partition][from] = true
		}
	}
	shared := func() bool {
		all := map[*kgo.Client]bool{}
		for _, of := range owners {
			for one := range of {
				all[one] = true
			}
		}
		return len(all) == 2
	}
	deadline := time.Now().Add(40 * time.Second)
	sent := 0
	for !shared() {
		check(time.Now().Before(deadline), "two members share")
		send(1)
		sent++
		drain(first)
		drain(second)
	}
	for len(seen) < 4*sent {
		check(time.Now().Before(deadline), "everything is read:", len(seen), "of", 4*sent)
		drain(first)
		drain(second)
	}
	check(first.CommitUncommittedOffsets(ctx) == nil && second.CommitUncommittedOffsets(ctx) == nil, "committed")
	first.Close()
	second.Close()
	send(1)
	third := member()
	for _, record := range read(third, 4) {
		check(record.Offset == int64(10+sent), "goes on where it was:", record.Offset)
	}
	third.Close()
	check(must(admin.ListGroups(ctx)).Groups()[0] != "", "listed")
	must(admin.DeleteGroups(ctx, topic))
}

func transactions() {
	must(admin.CreateTopic(ctx, 1, 1, nil, "go-sink"))
	producer := client(kgo.TransactionalID("go-id"), kgo.DefaultProduceTopic("go-sink"))
	for _, word := range []string{"kept", "dropped", "last"} {
		check(producer.BeginTransaction() == nil, "begun")
		check(producer.ProduceSync(ctx, kgo.StringRecord(word)).FirstErr() == nil, "produced")
		err := producer.EndTransaction(ctx, kgo.TransactionEndTry(word != "dropped"))
		check(err == nil, "ended:", err)
	}
	producer.Close()
	committed := values(readTopic("go-sink", 2, kgo.FetchIsolationLevel(kgo.ReadCommitted())))
	check(fmt.Sprint(committed) == "[kept last]", "committed records only:", committed)
	check(fmt.Sprint(values(readTopic("go-sink", 3))) == "[kept dropped last]", "all of them")
	check(must(admin.DescribeTransactions(ctx, "go-id"))["go-id"].State == "CompleteCommit", "described")
}

// readProcessWrite commits what it has read together with what it makes of it.
func readProcessWrite() {
	must(admin.CreateTopics(ctx, 1, 1, nil, "go-source", "go-made"))
	producer := client()
	check(producer.ProduceSync(ctx, &kgo.Record{Topic: "go-source", Value: []byte("raw")}).FirstErr() == nil, "produced")
	producer.Close()
	session := must(kgo.NewGroupTransactSession(
		kgo.SeedBrokers(os.Getenv("BROKER")), kgo.TransactionalID("go-session"), kgo.ConsumerGroup("go-session"),
		kgo.ConsumeTopics("go-source"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.RequireStableFetchOffsets(),
	))
	records := session.PollFetches(ctx).Records()
	check(len(records) == 1, "read:", len(records))
	check(session.Begin() == nil, "begun")
	made := &kgo.Record{Topic: "go-made", Value: append(records[0].Value, "!"...)}
	check(session.ProduceSync(ctx, made).FirstErr() == nil, "made")
	committed, err := session.End(ctx, kgo.TryCommit)
	check(committed && err == nil, "committed:", err)
	session.Close()
	check(values(readTopic("go-made", 1, kgo.FetchIsolationLevel(kgo.ReadCommitted())))[0] == "raw!", "what was made")
	check(must(admin.FetchOffsets(ctx, "go-session"))["go-source"][0].At == 1, "what was read")
}

func rulesAndQuotas() {
	rule := kadm.NewACLs().Topics("go-acl").ResourcePatternType(kadm.ACLPatternPrefixed).Operations(kadm.OpRead).
		Allow("User:ann").AllowHosts("*")
	check(must(admin.CreateACLs(ctx, rule))[0].Err == nil, "a rule")
	check(len(must(admin.DescribeACLs(ctx, rule))[0].Described) == 1, "is there")
	check(len(must(admin.DeleteACLs(ctx, rule))[0].Deleted) == 1, "and goes")
	entity := kadm.ClientQuotaEntity{{Type: "client-id", Name: text("go-slow")}}
	rate := []kadm.AlterClientQuotaOp{{Key: "consumer_byte_rate", Value: 5e4}}
	set := must(admin.AlterClientQuotas(ctx, []kadm.AlterClientQuotaEntry{{Entity: entity, Ops: rate}}))
	check(set[0].Err == nil, "a quota:", set[0].Err)
	match := []kadm.DescribeClientQuotaComponent{{Type: "client-id", MatchType: 0, MatchName: text("go-slow")}}
	found := must(admin.DescribeClientQuotas(ctx, true, match))
	check(len(found) == 1 && found[0].Values[0].Value == 5e4, "the quota:", found)
}

func mechanism(name, password string) sasl.Mechanism {
	user := os.Getenv("SASL_USER")
	proof := scram.Auth{User: user, Pass: password}
	switch name {
	case "PLAIN":
		return plain.Auth{User: user, Pass: password}.AsMechanism()
	case "SCRAM-SHA-256":
		return proof.AsSha256Mechanism()
	default:
		return proof.AsSha512Mechanism()
	}
}

func authentication() {
	for _, name := range strings.Split(os.Getenv("MECHANISMS"), ",") {
		for _, password := range []string{os.Getenv("SASL_PASSWORD"), "wrong"} {
			as := client(kgo.SeedBrokers(os.Getenv("SASL_BROKER")), kgo.SASL(mechanism(name, password)))
			err := as.Ping(ctx)
			check(password == "wrong" == errors.Is(err, kerr.SaslAuthenticationFailed), name, password, err)
			as.Close()
		}
	}
}

func main() {
	admin = kadm.NewClient(client())
	topicsAndConfigs()
	codecsKeysHeadersTimes()
	largeMessages()
	groups("go-classic", false)
	groups("go-newer", true)
	transactions()
	readProcessWrite()
	rulesAndQuotas()
	authentication()
	must(admin.DeleteTopics(ctx, "go", "go-large"))
	check(!must(admin.ListTopics(ctx)).Has("go"), "deleted topics are gone")
	fmt.Println("all good")
}
