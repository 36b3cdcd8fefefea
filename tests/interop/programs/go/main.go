// amqp091-go, unmodified: topology, confirms, returns, consuming, errors of the protocol.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func check(good bool, what string, values ...any) {
	if !good {
		log.Fatal(what, " ", values)
	}
}

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	connection, err := amqp.Dial(os.Getenv("AMQP_URL"))
	must(err)
	channel, err := connection.Channel()
	must(err)
	exchange := os.Getenv("PREFIX") + ".x"
	must(channel.ExchangeDeclare(exchange, "headers", false, true, false, false, nil))
	queue, err := channel.QueueDeclare("", false, false, true, false, amqp.Table{"x-max-length": int32(1000)})
	must(err)
	must(channel.QueueBind(queue.Name, "", exchange, false, amqp.Table{"x-match": "all", "kind": "a"}))
	must(channel.Confirm(false))

	for n := range 100 {
		message := amqp.Publishing{Headers: amqp.Table{"kind": "a", "n": int64(n)}, Body: []byte(fmt.Sprint(n)), DeliveryMode: amqp.Persistent}
		confirm, err := channel.PublishWithDeferredConfirmWithContext(ctx, exchange, "", false, false, message)
		must(err)
		good, err := confirm.WaitContext(ctx)
		must(err)
		check(good, "nack", n)
	}

	must(channel.Qos(10, 0, false))
	deliveries, err := channel.ConsumeWithContext(ctx, queue.Name, "", false, false, false, false, nil)
	must(err)
	for n := range 100 {
		delivery := <-deliveries
		check(string(delivery.Body) == fmt.Sprint(n), "order", n, string(delivery.Body))
		check(delivery.Headers["n"] == int64(n), "header", delivery.Headers)
		must(delivery.Ack(false))
	}

	returns := channel.NotifyReturn(make(chan amqp.Return, 1))
	must(channel.PublishWithContext(ctx, "", "nowhere", true, false, amqp.Publishing{Body: []byte("back")}))
	returned := <-returns
	check(returned.ReplyCode == 312, "return", returned)

	big := bytes.Repeat([]byte("0123456789abcdef"), 5<<16)
	must(channel.PublishWithContext(ctx, "", queue.Name, false, false, amqp.Publishing{Body: big}))
	delivery := <-deliveries
	check(bytes.Equal(delivery.Body, big), "large body")
	must(delivery.Reject(true))
	delivery = <-deliveries
	check(delivery.Redelivered, "redelivered")
	must(delivery.Ack(false))

	cancelled := channel.NotifyCancel(make(chan string, 1))
	_, err = channel.QueueDelete(queue.Name, false, false, false)
	must(err)
	<-cancelled

	failing, err := connection.Channel()
	must(err)
	_, err = failing.QueueDeclarePassive("absent-one", false, false, false, false, nil)
	var refusal *amqp.Error
	check(errors.As(err, &refusal) && refusal.Code == 404, "passive declare", err)

	must(connection.Close())
	fmt.Println("all good")
}
