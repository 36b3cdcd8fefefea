// zeromq.js, unmodified: its sockets on both sides of a streamer, a forwarder and a router; binding, connecting, CURVE.
const assert = require("node:assert");
const { Publisher, Pull, Push, Reply, Request, Subscriber, XSubscriber } = require("zeromq");

const at = JSON.parse(process.env.ENDPOINTS);
const timeout = 10000;
const made = [];

function socket(Kind, more) {
  const one = new Kind({ linger: 0, ...more });
  for (const name of ["receiveTimeout", "sendTimeout"]) if (name in one) one[name] = timeout;
  made.push(one);
  return one;
}

function connected(Kind, endpoint, more) {
  const one = socket(Kind, more);
  one.connect(endpoint);
  return one;
}

function text(frames) {
  return frames.map((frame) => frame.toString());
}

async function stream(push, pull) {
  const large = Buffer.alloc(300000, 7);
  const sending = (async () => {
    for (let n = 0; n < 500; n++) await push.send([`${n}`, "", "x"]);
    await push.send(large);
  })();
  for (let n = 0; n < 500; n++) assert.deepStrictEqual(text(await pull.receive()), [`${n}`, "", "x"]);
  assert.ok((await pull.receive())[0].equals(large));
  await sending;
}

async function streamers() {
  await stream(connected(Push, at.streamer[0]), connected(Pull, at.streamer[1]));
  const [push, pull] = [socket(Push), socket(Pull)];
  await Promise.all([push.bind(at.dialled[0]), pull.bind(at.dialled[1])]);
  await stream(push, pull);
  const keys = { curveServerKey: at.keys.server, curvePublicKey: at.keys.public, curveSecretKey: at.keys.secret };
  await stream(connected(Push, at.curve[0], keys), connected(Pull, at.curve[1], keys));
}

async function forwarder() {
  const publisher = connected(Publisher, at.forwarder[0]);
  const subscriber = connected(Subscriber, at.forwarder[1]);
  const raw = connected(XSubscriber, at.forwarder[1]);
  subscriber.subscribe("a");
  await raw.send(Buffer.from("\x01b"));
  let over = false;
  const publishing = (async () => {
    // Subscriptions take a moment on their way.
    while (!over) {
      await publisher.send(["c", "for nobody"]);
      await publisher.send(["ab", "1"]);
      await publisher.send(["b", "2"]);
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  })();
  try {
    for (let n = 0; n < 20; n++) {
      assert.deepStrictEqual(text(await subscriber.receive()), ["ab", "1"]);
      assert.deepStrictEqual(text(await raw.receive()), ["b", "2"]);
    }
  } finally {
    over = true;
    await publishing;
  }
}

async function router() {
  const clients = [connected(Request, at.router[0]), connected(Request, at.router[0])];
  const worker = connected(Reply, at.router[1]);
  const working = (async () => {
    for (let n = 0; n < 100; n++) await worker.send((await worker.receive()).map((frame) => `re ${frame}`));
  })();
  const asking = clients.map(async (client, who) => {
    for (let n = 0; n < 50; n++) {
      await client.send([`${who}`, `${n}`]);
      assert.deepStrictEqual(text(await client.receive()), [`re ${who}`, `re ${n}`]);
    }
  });
  await Promise.all([...asking, working]);
}

async function main() {
  await streamers();
  await forwarder();
  await router();
  made.forEach((one) => one.close());
  console.log("all good");
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
