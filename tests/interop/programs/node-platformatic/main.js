// Exercises a broker through @platformatic/kafka, which speaks newer versions only: BROKER is open, SASL_BROKER asks for
// SASL_USER and SASL_PASSWORD by MECHANISMS.
import assert from 'node:assert'
import { Admin, Consumer, Producer, stringDeserializers, stringSerializers } from '@platformatic/kafka'

const BROKER = process.env.BROKER
const at = (broker, more = {}) => ({ clientId: 'interop', bootstrapBrokers: [broker], retries: 5, retryDelay: 200, ...more })
const admin = new Admin(at(BROKER))
// Recent: what is older than a topic keeps goes at once.
const base = BigInt(Date.now() - 3_600_000)
const TOPIC = 2
const SET = 0

const producer = options => new Producer(at(BROKER, { serializers: stringSerializers, ...options }))
const consumer = (groupId, options) => new Consumer(at(BROKER, {
  groupId, deserializers: stringDeserializers, sessionTimeout: 8000, heartbeatInterval: 500, maxWaitTime: 200, autocommit: false, ...options,
}))
const pause = milliseconds => new Promise(done => setTimeout(done, milliseconds))

async function until (condition, what) {
  const deadline = Date.now() + 30_000
  while (!await condition()) {
    assert.ok(Date.now() < deadline, what)
    await pause(50)
  }
}

/** A member of a group that keeps what comes. */
async function member (group, topic, options = {}) {
  const client = consumer(group, options)
  const stream = await client.consume({ topics: [topic], mode: 'committed', fallbackMode: 'earliest' })
  const seen = []
  const commits = []
  stream.on('data', message => {
    seen.push(message)
    commits.push(message.commit())
  })
  stream.on('error', () => {})
  const parts = () => (client.assignments ?? []).flatMap(a => a.partitions)
  return { client, stream, seen, parts, leave: async () => {
    await Promise.all(commits)
    await stream.close()
    await client.close(true)
  } }
}

/** The first records of a topic. */
async function read (topic, count, options = {}) {
  const one = await member(`read-${topic}-${Object.keys(options)}`, topic, options)
  await until(() => one.seen.length >= count, `${one.seen.length} of ${count} records of ${topic}`)
  await one.leave()
  return one.seen
}

async function topicsAndConfigs () {
  await admin.createTopics({ topics: ['pl'], partitions: 2, replicas: 1, configs: [{ name: 'retention.ms', value: '600000' }] })
  await assert.rejects(admin.createTopics({ topics: ['pl'], partitions: 2, replicas: 1 }))
  await assert.rejects(admin.createTopics({ topics: ['three'], partitions: 1, replicas: 3 }))
  await admin.createPartitions({ topics: [{ name: 'pl', count: 4 }] })
  assert.strictEqual((await admin.metadata({ topics: ['pl'] })).topics.get('pl').partitions.length, 4)
  const resource = { resourceType: TOPIC, resourceName: 'pl' }
  const value = async () => {
    const [{ configs }] = await admin.describeConfigs({ resources: [{ ...resource, configurationKeys: ['retention.ms'] }] })
    return configs.map(c => c.value)
  }
  assert.deepStrictEqual(await value(), ['600000'])
  const change = value => ({ resources: [{ ...resource, configs: [{ name: 'retention.ms', value, configOperation: SET }] }] })
  await admin.incrementalAlterConfigs(change('700000'))
  assert.deepStrictEqual(await value(), ['700000'])
  await assert.rejects(admin.incrementalAlterConfigs(change('soon')))
}

async function codecsKeysHeadersTimes () {
  for (const compression of ['none', 'gzip', 'snappy', 'lz4', 'zstd']) {
    const topic = `pl-${compression}`
    await admin.createTopics({ topics: [topic], partitions: 1, replicas: 1 })
    const messages = Array.from({ length: 50 }, (_, n) => ({
      topic, partition: 0, key: `k${n}`, value: 'v'.repeat(200) + n, headers: { h: 'x', ä: 'ö' }, timestamp: base + BigInt(n) * 1000n,
    }))
    const sender = producer({ idempotent: compression !== 'none' })
    const { offsets: [first] } = await sender.send({ messages, compression, acks: -1 })
    assert.strictEqual(first.offset, 0n)
    await sender.close()
    const seen = await read(topic, 50)
    assert.deepStrictEqual(seen.map(m => m.offset), messages.map((_, n) => BigInt(n)))
    assert.deepStrictEqual(seen.map(m => [m.key, m.value, m.timestamp]), messages.map(m => [m.key, m.value, m.timestamp]))
    assert.deepStrictEqual([...seen[7].headers], [['h', 'x'], ['ä', 'ö']])
    const look = consumer('look')
    const found = await look.listOffsetsWithTimestamps({ topics: [topic], timestamp: base + 3500n })
    assert.deepStrictEqual(found.get(topic).get(0), { offset: 4n, timestamp: base + 4000n })
    await look.close()
  }
  const [{ partitions: [deleted] }] = await admin.deleteRecords({ topics: [{ name: 'pl-none', partitions: [{ partition: 0, offset: 5n }] }] })
  assert.strictEqual(deleted.lowWatermark, 5n)
  const look = consumer('look')
  assert.deepStrictEqual((await look.listOffsets({ topics: ['pl-none'], timestamp: -2n })).get('pl-none'), [5n])
  assert.deepStrictEqual((await look.listOffsets({ topics: ['pl-none'] })).get('pl-none'), [50n])
  await look.close()
}

async function largeMessages () {
  await admin.createTopics({ topics: ['pl-large'], partitions: 1, replicas: 1, configs: [{ name: 'max.message.bytes', value: '6000000' }] })
  const sender = producer({ retries: 0 })
  const send = length => sender.send({ messages: [{ topic: 'pl-large', value: 'x'.repeat(length) }] })
  await send(5_000_000)
  await assert.rejects(send(6_500_000))
  await sender.close()
  const [large] = await read('pl-large', 1, { maxBytes: 1000 })
  assert.strictEqual(large.value.length, 5_000_000)
}

async function groups (protocol) {
  const [topic, group] = [`pl-${protocol}`, `pl-group-${protocol}`]
  await admin.createTopics({ topics: [topic], partitions: 4, replicas: 1 })
  const sender = producer()
  const send = count => sender.send({
    messages: Array.from({ length: 4 * count }, (_, n) => ({ topic, partition: n % 4, value: `${n}` })),
  })
  const options = protocol === 'consumer' ? { groupProtocol: 'consumer' } : {}
  await send(10)
  const first = await member(group, topic, options)
  await until(() => first.seen.length === 40, `${first.seen.length} of 40`)
  const second = await member(group, topic, options)
  await until(() => first.parts().length === 2 && second.parts().length === 2, 'two members share')
  await send(10)
  await until(() => first.seen.length + second.seen.length >= 80, 'both read')
  await second.leave()
  await until(() => first.parts().length === 4, 'one has all again')
  await send(10)
  const places = (...of) => new Set(of.flatMap(m => m.seen.map(r => `${r.partition}/${r.offset}`)))
  await until(() => places(first, second).size === 120, 'all is read')
  await first.leave()
  await send(1)
  const third = await member(group, topic, options)
  await until(() => third.seen.length >= 4, 'goes on')
  await third.leave()
  assert.deepStrictEqual(third.seen.map(m => m.offset), [30n, 30n, 30n, 30n])
  assert.ok((await admin.listGroups()).has(group))
  await admin.deleteGroups({ groups: [group] })
  assert.ok(!(await admin.listGroups()).has(group))
  await sender.close()
}

async function transactions () {
  await admin.createTopics({ topics: ['pl-sink'], partitions: 1, replicas: 1 })
  const sender = producer({ transactionalId: 'pl-id', idempotent: true })
  for (const word of ['kept', 'dropped', 'last']) {
    const transaction = await sender.beginTransaction()
    await transaction.send({ messages: [{ topic: 'pl-sink', value: word }], acks: -1 })
    await (word === 'dropped' ? transaction.abort() : transaction.commit())
  }
  await sender.close()
  const words = seen => seen.map(m => m.value)
  assert.deepStrictEqual(words(await read('pl-sink', 2, { isolationLevel: 1 })), ['kept', 'last'])
  assert.deepStrictEqual(words(await read('pl-sink', 3, { isolationLevel: 0, minBytes: 1 })), ['kept', 'dropped', 'last'])
}

/** Offsets of what was read go with what was made of it. */
async function readProcessWrite () {
  await admin.createTopics({ topics: ['pl-source', 'pl-made'], partitions: 1, replicas: 1 })
  const sender = producer({ transactionalId: 'pl-session', idempotent: true })
  const plain = producer()
  await plain.send({ messages: [{ topic: 'pl-source', value: 'raw' }] })
  await plain.close()
  const reader = consumer('pl-session')
  const stream = await reader.consume({ topics: ['pl-source'], mode: 'committed', fallbackMode: 'earliest' })
  const seen = []
  stream.on('data', message => seen.push(message))
  await until(() => seen.length === 1, 'read')
  const transaction = await sender.beginTransaction()
  await transaction.addConsumer(reader)
  await transaction.send({ messages: [{ topic: 'pl-made', value: `${seen[0].value}!` }], acks: -1 })
  await transaction.addOffset(seen[0])
  await transaction.commit()
  const committed = await reader.listCommittedOffsets({ topics: [{ topic: 'pl-source', partitions: [0] }] })
  assert.deepStrictEqual(committed.get('pl-source').map(Number), [1])
  await stream.close()
  await reader.close(true)
  await sender.close()
  assert.strictEqual((await read('pl-made', 1, { isolationLevel: 1 }))[0].value, 'raw!')
}

async function sasl () {
  const { SASL_BROKER, SASL_USER: username, SASL_PASSWORD, MECHANISMS } = process.env
  for (const mechanism of MECHANISMS.split(',')) {
    const as = password => new Producer(at(SASL_BROKER, { serializers: stringSerializers, sasl: { mechanism, username, password }, retries: 1 }))
    const good = as(SASL_PASSWORD)
    await good.send({ messages: [{ topic: 'pl-sasl', value: mechanism }], autocreateTopics: true })
    await good.close()
    const wrong = as('wrong')
    await assert.rejects(wrong.send({ messages: [{ topic: 'pl-sasl', value: '' }] }), e => /auth/i.test(JSON.stringify(e, (k, v) => v instanceof Error ? { m: v.message, ...v } : v)))
    await wrong.close()
  }
}

const parts = [topicsAndConfigs, codecsKeysHeadersTimes, largeMessages, () => groups('classic'), () => groups('consumer'), transactions, readProcessWrite, sasl]
for (const part of parts) {
  await part()
  console.log(`${part.name || part} done`)
}
await admin.deleteTopics({ topics: ['pl', 'pl-large'] })
assert.ok(!(await admin.listTopics()).includes('pl'))
await admin.close()
console.log('all good')
process.exit(0)
