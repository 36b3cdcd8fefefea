// The consul package of npm, as its own acceptance tests use it: agent, checks, catalog, health, watch, events, queries.
"use strict";

const assert = require("node:assert/strict");
const Consul = require("consul");

const url = new URL(process.env.CONSUL_URL);
const prefix = process.env.PREFIX;
const consul = new Consul({ host: url.hostname, port: Number(url.port) });

async function agent() {
  const self = await consul.agent.self();
  assert.equal(self.Config.Datacenter, "dc1");
  const members = await consul.agent.members();
  assert.equal(members[0].Name, self.Config.NodeName);

  const id = `${prefix}-1`;
  await consul.agent.service.register({
    id, name: prefix, tags: ["a", "b"], address: "10.0.0.1", port: 8000, meta: { k: "v" },
    check: { ttl: "10s", notes: "beat", status: "passing", deregister_critical_service_after: "1m" },
  });
  const services = await consul.agent.services();
  assert.equal(services[id].Service, prefix);
  assert.deepEqual(services[id].Tags, ["a", "b"]);
  const checks = await consul.agent.checks();
  assert.equal(checks[`service:${id}`].Status, "passing");
  assert.equal(checks[`service:${id}`].Notes, "beat");
  await consul.agent.check.fail({ id: `service:${id}`, note: "down" });
  assert.equal((await consul.agent.checks())[`service:${id}`].Output, "down");
  await consul.agent.check.warn(`service:${id}`);
  await consul.agent.check.pass(`service:${id}`);
  assert.equal((await consul.agent.checks())[`service:${id}`].Status, "passing");

  await consul.agent.check.register({ name: `${prefix}-node-check`, ttl: "15s" });
  assert.equal((await consul.agent.checks())[`${prefix}-node-check`].Status, "critical");
  await consul.agent.check.deregister(`${prefix}-node-check`);
  assert.ok(!((`${prefix}-node-check`) in (await consul.agent.checks())));

  await consul.agent.service.maintenance({ id, enable: true, reason: "repair" });
  assert.equal((await consul.agent.checks())[`_service_maintenance:${id}`].Notes, "repair");
  await consul.agent.service.maintenance({ id, enable: false });
  assert.ok(!(`_service_maintenance:${id}` in (await consul.agent.checks())));
}

async function catalogAndHealth() {
  assert.deepEqual(await consul.catalog.datacenters(), ["dc1"]);
  const nodes = await consul.catalog.node.list();
  assert.ok(nodes.length >= 1 && nodes[0].Address);
  const services = await consul.catalog.service.list();
  assert.deepEqual(services[prefix], ["a", "b"]);
  const found = await consul.catalog.service.nodes(prefix);
  assert.equal(found[0].ServicePort, 8000);
  const node = await consul.catalog.node.services(found[0].Node);
  assert.equal(node.Services[`${prefix}-1`].Port, 8000);

  const entries = await consul.health.service({ service: prefix, passing: true });
  assert.equal(entries.length, 1);
  assert.deepEqual(entries[0].Service.Meta, { k: "v" });
  assert.equal((await consul.health.checks(prefix))[0].CheckID, `service:${prefix}-1`);
  assert.ok((await consul.health.state("any")).some((check) => check.ServiceName === prefix));
  assert.ok((await consul.health.node(found[0].Node)).some((check) => check.CheckID === "serfHealth"));
  assert.match(await consul.status.leader(), /:8300$/);
  assert.equal((await consul.status.peers()).length, 1);
}

// A watch hears of what comes and what goes.
async function watch() {
  const watch = consul.watch({ method: consul.health.service, options: { service: prefix, passing: true }, backoffFactor: 100 });
  const seen = [];
  let wake = () => {};
  watch.on("change", (data) => { seen.push(data.length); wake(); });
  watch.on("error", (error) => { throw error; });
  const until = async (count) => {
    const end = Date.now() + 10_000;
    while (seen[seen.length - 1] !== count) {
      assert.ok(Date.now() < end, `saw ${seen}, not ${count}`);
      await Promise.race([new Promise((r) => { wake = r; }), new Promise((r) => setTimeout(r, 100))]);
    }
  };
  await until(1);
  await consul.agent.service.register({ id: `${prefix}-2`, name: prefix, address: "10.0.0.2", port: 8001 });
  await until(2);
  await consul.agent.service.deregister(`${prefix}-2`);
  await until(1);
  watch.end();
}

async function rest() {
  const event = await consul.event.fire({ name: `${prefix}-deploy`, payload: "now" });
  assert.equal(event.Name, `${prefix}-deploy`);
  const events = await consul.event.list({ name: `${prefix}-deploy` });
  assert.equal(events.length, 1);
  assert.equal(String(events[0].Payload), "now");

  const query = await consul.query.create({ name: `${prefix}-query`, service: { service: prefix, onlypassing: true } });
  const result = await consul.query.execute({ query: query.ID });
  assert.equal(result.Nodes.length, 1);
  await consul.query.destroy(query.ID);
  await assert.rejects(consul.query.execute({ query: query.ID }), { statusCode: 404 });

  await assert.rejects(consul.agent.check.pass(`${prefix}-nobody`), { statusCode: 404 });
  await consul.agent.service.deregister(`${prefix}-1`);
  assert.deepEqual(await consul.health.service(prefix), []);
}

(async () => {
  await agent();
  await catalogAndHealth();
  await watch();
  await rest();
  console.log("all good");
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
