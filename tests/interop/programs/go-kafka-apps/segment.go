package main

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/sasl"
	"github.com/segmentio/kafka-go/sasl/plain"
	"github.com/segmentio/kafka-go/sasl/scram"
)

func throughSegment() {
	ctx, cancel := within()
	defer cancel()
	client := &kafka.Client{Addr: kafka.TCP(broker)}
	kept := kafka.ConfigEntry{ConfigName: "retention.ms", ConfigValue: "600000"}
	topic := kafka.TopicConfig{Topic: "segment", NumPartitions: 4, ReplicationFactor: 1, ConfigEntries: []kafka.ConfigEntry{kept}}
	made := must(client.CreateTopics(ctx, &kafka.CreateTopicsRequest{Topics: []kafka.TopicConfig{topic}}))
	done(made.Errors["segment"])
	made = must(client.CreateTopics(ctx, &kafka.CreateTopicsRequest{Topics: []kafka.TopicConfig{topic}}))
	check(errors.Is(made.Errors["segment"], kafka.TopicAlreadyExists), "made once only")
	resource := kafka.DescribeConfigRequestResource{ResourceType: kafka.ResourceTypeTopic, ResourceName: "segment"}
	described := must(client.DescribeConfigs(ctx, &kafka.DescribeConfigsRequest{Resources: []kafka.DescribeConfigRequestResource{resource}}))
	check(strings.Contains(fmt.Sprint(described.Resources[0].ConfigEntries), "600000"), "configured")
	// One connection, as its simplest programs have it.
	conn := must(kafka.Dial("tcp", broker))
	check(len(must(conn.ReadPartitions("segment"))) == 4, "four partitions")
	done(conn.Close())
	for codec := range kafka.Zstd + 1 {
		segmentCodec(codec)
	}
	segmentGroup(client)
	for _, mechanism := range mechanisms {
		segmentSasl(mechanism)
	}
	deleted := must(client.DeleteTopics(ctx, &kafka.DeleteTopicsRequest{Topics: []string{"segment"}}))
	done(deleted.Errors["segment"])
}

func segmentCodec(codec kafka.Compression) {
	ctx, cancel := within()
	defer cancel()
	topic := fmt.Sprint("segment-", codec)
	writer := &kafka.Writer{
		Addr: kafka.TCP(broker), Topic: topic, Compression: codec, RequiredAcks: kafka.RequireAll, BatchTimeout: 5 * time.Millisecond,
		AllowAutoTopicCreation: true,
	}
	var messages []kafka.Message
	for n := range 300 {
		messages = append(messages, kafka.Message{
			Key: fmt.Append(nil, "k", n), Value: fmt.Appendf(nil, "%200d", n), Time: base.Add(time.Duration(n) * time.Second),
			Headers: []kafka.Header{{Key: "h", Value: []byte("1")}, {Key: "h", Value: []byte("2")}},
		})
	}
	until("the topic is made by who writes", func() bool { return writer.WriteMessages(ctx, messages[0]) == nil })
	done(writer.WriteMessages(ctx, messages[1:]...))
	done(writer.Close())
	reader := kafka.NewReader(kafka.ReaderConfig{Brokers: []string{broker}, Topic: topic, MaxWait: 100 * time.Millisecond})
	for n := range 300 {
		message := must(reader.ReadMessage(ctx))
		check(message.Offset == int64(n) && message.Time.Equal(base.Add(time.Duration(n)*time.Second)), "offset and time", n)
		check(string(message.Key) == fmt.Sprint("k", n) && string(message.Value) == fmt.Sprintf("%200d", n), "key and value", n)
		check(len(message.Headers) == 2 && string(message.Headers[1].Value) == "2", "headers, also twice the same")
	}
	done(reader.SetOffsetAt(ctx, base.Add(3500*time.Millisecond)))
	check(must(reader.ReadMessage(ctx)).Offset == 4, "offset by time")
	done(reader.Close())
}

func segmentGroup(client *kafka.Client) {
	ctx, cancel := within()
	defer cancel()
	writer := &kafka.Writer{Addr: kafka.TCP(broker), Topic: "segment", Balancer: &kafka.RoundRobin{}, BatchTimeout: 5 * time.Millisecond}
	write := func(count int) { done(writer.WriteMessages(ctx, make([]kafka.Message, count)...)) }
	config := kafka.ReaderConfig{
		Brokers: []string{broker}, GroupID: "segment-group", Topic: "segment", StartOffset: kafka.FirstOffset, MaxWait: 100 * time.Millisecond,
		SessionTimeout: 8 * time.Second, HeartbeatInterval: 500 * time.Millisecond, JoinGroupBackoff: 100 * time.Millisecond,
	}
	var seen [2]atomic.Int64
	var readers [2]*kafka.Reader
	join := func(n int) {
		readers[n] = kafka.NewReader(config)
		go func() {
			for {
				message, err := readers[n].FetchMessage(ctx)
				if err != nil {
					return
				}
				done(readers[n].CommitMessages(ctx, message))
				seen[n].Add(1)
			}
		}()
	}
	members := func() int {
		request := &kafka.DescribeGroupsRequest{GroupIDs: []string{"segment-group"}}
		group := must(client.DescribeGroups(ctx, request)).Groups[0]
		if group.GroupState != "Stable" {
			return 0
		}
		return len(group.Members)
	}
	write(40)
	join(0)
	until("all to the only member", func() bool { return seen[0].Load() == 40 })
	join(1)
	until("two members share", func() bool { return members() == 2 })
	write(400)
	until("both read", func() bool { return seen[0].Load()+seen[1].Load() >= 440 && seen[1].Load() > 0 })
	for _, reader := range readers {
		done(reader.Close())
	}
	request := &kafka.OffsetFetchRequest{GroupID: "segment-group", Topics: map[string][]int{"segment": {0, 1, 2, 3}}}
	var committed int64
	for _, partition := range must(client.OffsetFetch(ctx, request)).Topics["segment"] {
		committed += partition.CommittedOffset
	}
	check(committed == 440, "committed", committed)
	done(writer.Close())
}

func segmentSasl(mechanism string) {
	ctx, cancel := within()
	defer cancel()
	for _, password := range []string{word, "wrong"} {
		var says sasl.Mechanism = plain.Mechanism{Username: user, Password: password}
		switch mechanism {
		case "SCRAM-SHA-256":
			says = must(scram.Mechanism(scram.SHA256, user, password))
		case "SCRAM-SHA-512":
			says = must(scram.Mechanism(scram.SHA512, user, password))
		}
		dialer := &kafka.Dialer{SASLMechanism: says, Timeout: 10 * time.Second, DialFunc: (&net.Dialer{}).DialContext}
		conn, err := dialer.DialContext(ctx, "tcp", saslBroker)
		if password == "wrong" {
			check(errors.Is(err, kafka.SASLAuthenticationFailed), "refused, not", err)
			continue
		}
		done(err)
		_ = must(conn.ReadPartitions())
		done(conn.Close())
	}
}
