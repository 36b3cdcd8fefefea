// amqplib, unmodified: topology, confirms, returns, prefetch, requeue, RPC, errors of the protocol.
const assert = require("node:assert");
const amqp = require("amqplib");

const prefix = process.env.PREFIX;

async function consume(channel, queue, count, options) {
  const got = [];
  await new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`${got.length} of ${count} messages`)), 10000);
    channel
      .consume(queue, (message) => {
        got.push(message);
        if (got.length === count) {
          clearTimeout(timer);
          resolve();
        }
      }, options)
      .catch(reject);
  });
  return got;
}

async function main() {
  const connection = await amqp.connect(process.env.AMQP_URL);
  const channel = await connection.createConfirmChannel();
  const exchange = `${prefix}.x`;
  await channel.assertExchange(exchange, "topic", { autoDelete: true });
  const { queue } = await channel.assertQueue("", { exclusive: true, arguments: { "x-max-priority": 5 } });
  await channel.bindQueue(queue, exchange, "a.#");

  for (let n = 0; n < 100; n++) {
    channel.publish(exchange, `a.${n}`, Buffer.from(String(n)), { persistent: true, headers: { n, deep: { list: [1, "x"] } } });
  }
  await channel.waitForConfirms();

  const other = await connection.createChannel();
  await other.prefetch(200);
  const got = await consume(other, queue, 100);
  assert.deepStrictEqual(got.map((m) => m.content.toString()), [...Array(100).keys()].map(String));
  assert.deepStrictEqual(got[7].properties.headers, { n: 7, deep: { list: [1, "x"] } });
  other.nack(got[99], true, true);
  await other.close();
  assert.strictEqual((await channel.checkQueue(queue)).messageCount, 100);
  const again = await channel.get(queue, { noAck: true });
  assert.ok(again.fields.redelivered);
  assert.strictEqual((await channel.purgeQueue(queue)).messageCount, 99);

  const returned = new Promise((resolve) => channel.once("return", resolve));
  channel.publish("", "nowhere", Buffer.from("back"), { mandatory: true });
  await channel.waitForConfirms();
  assert.strictEqual((await returned).fields.replyCode, 312);

  const big = Buffer.alloc(5 * 1024 * 1024, 7);
  channel.sendToQueue(queue, big);
  await channel.waitForConfirms();
  assert.ok(big.equals((await channel.get(queue, { noAck: true })).content));

  const asker = await connection.createChannel();
  const answer = consume(asker, "amq.rabbitmq.reply-to", 1, { noAck: true });
  asker.sendToQueue(queue, Buffer.from("ping"), { replyTo: "amq.rabbitmq.reply-to", correlationId: "c" });
  const server = await connection.createChannel();
  const [request] = await consume(server, queue, 1, { noAck: true });
  server.sendToQueue(request.properties.replyTo, Buffer.from("pong"), { correlationId: request.properties.correlationId });
  const [reply] = await answer;
  assert.strictEqual(reply.content.toString() + reply.properties.correlationId, "pongc");

  const failing = await connection.createChannel();
  const failed = new Promise((resolve) => failing.once("error", resolve));
  await assert.rejects(failing.checkQueue("absent-one"), /404/);
  assert.strictEqual((await failed).code, 404);

  const cancelling = await connection.createChannel();
  const cancelled = new Promise((resolve) => cancelling.consume(`${queue}`, (m) => m === null && resolve()));
  await cancelling.checkQueue(queue);
  await channel.deleteQueue(queue);
  await cancelled;

  await connection.close();
  console.log("all good");
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
