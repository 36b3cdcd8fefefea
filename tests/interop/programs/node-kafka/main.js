// Exercises a broker through kafkajs: BROKER is open, SASL_BROKER asks for SASL_USER and SASL_PASSWORD by MECHANISMS.
const assert = require('node:assert')
const { once, EventEmitter } = require('node:events')
const {
  Kafka, CompressionTypes, CompressionCodecs, ConfigResourceTypes, AclResourceTypes, AclOperationTypes, AclPermissionTypes,
  ResourcePatternTypes, logLevel,
} = require('kafkajs')
const SnappyCodec = require('kafkajs-snappy')
const lz4 = require('lz4js')

CompressionCodecs[CompressionTypes.Snappy] = SnappyCodec
CompressionCodecs[CompressionTypes.LZ4] = () => ({
  compress: async encoder => Buffer.from(lz4.compress(encoder.buffer)),
  decompress: async buffer => Buffer.from(lz4.decompress(buffer)),
})

const client = options => new Kafka({
  clientId: 'interop', brokers: [process.env.BROKER], logLevel: logLevel.NOTHING, retry: { retries: 8 }, ...options,
})
const kafka = client({})
const admin = kafka.admin()
// Recent: what is older than a topic keeps goes at once.
const base = Date.now() - 3_600_000

/** Consumes as a member of a group until `count` records have come. */
async function consume(topic, groupId, count, options = {}) {
  const consumer = kafka.consumer({ groupId, sessionTimeout: 8000, heartbeatInterval: 500, ...options })
  const seen = []
  const came = new EventEmitter()
  await consumer.connect()
  await consumer.subscribe({ topics: [topic], fromBeginning: true })
  const enough = once(came, 'enough')
  await consumer.run({
    eachMessage: async ({ partition, message }) => {
      seen.push({ partition, ...message })
      if (seen.length >= count) came.emit('enough')
    },
  })
  if (count > 0) await enough
  return { consumer, seen }
}

async function topicsAndConfigs() {
  await admin.createTopics({
    topics: [{ topic: 'js', numPartitions: 2, configEntries: [{ name: 'retention.ms', value: '600000' }] }],
  })
  await assert.rejects(admin.createTopics({ topics: [{ topic: 'three', replicationFactor: 3 }] }))
  assert.ok((await admin.listTopics()).includes('js'))
  await admin.createPartitions({ topicPartitions: [{ topic: 'js', count: 4 }] })
  const { topics } = await admin.fetchTopicMetadata({ topics: ['js'] })
  assert.strictEqual(topics[0].partitions.length, 4)
  const resource = { type: ConfigResourceTypes.TOPIC, name: 'js' }
  const value = async () => {
    const { resources } = await admin.describeConfigs({ resources: [{ ...resource, configNames: ['retention.ms'] }] })
    return resources[0].configEntries.map(e => e.configValue)
  }
  assert.deepStrictEqual(await value(), ['600000'])
  await admin.alterConfigs({ resources: [{ ...resource, configEntries: [{ name: 'retention.ms', value: '700000' }] }] })
  assert.deepStrictEqual(await value(), ['700000'])
  const cluster = await admin.describeCluster()
  assert.strictEqual(cluster.brokers.length, 1)
}

async function codecsKeysHeadersTimes() {
  const producer = kafka.producer({ idempotent: true, maxInFlightRequests: 1 })
  await producer.connect()
  const codecs = [CompressionTypes.None, CompressionTypes.GZIP, CompressionTypes.Snappy, CompressionTypes.LZ4]
  for (const [i, compression] of codecs.entries()) {
    const topic = `js-codec-${i}`
    await admin.createTopics({ topics: [{ topic }] })
    const messages = Array.from({ length: 20 }, (_, n) => ({
      key: `k${n}`, value: 'v'.repeat(200) + n, headers: { h: 'x', many: ['1', '2'] }, timestamp: String(base + n * 1000),
    }))
    const [{ baseOffset }] = await producer.send({ topic, compression, acks: -1, messages })
    assert.strictEqual(baseOffset, '0')
    const { consumer, seen } = await consume(topic, `js-codec-${i}`, 20)
    await consumer.disconnect()
    assert.deepStrictEqual(seen.map(m => m.offset), messages.map((_, n) => String(n)))
    assert.deepStrictEqual([seen[7].key.toString(), seen[7].value.toString(), seen[7].timestamp],
      ['k7', messages[7].value, messages[7].timestamp])
    assert.deepStrictEqual(seen[7].headers.many.map(String), ['1', '2'])
    assert.strictEqual(String(seen[7].headers.h), 'x')
    const [found] = await admin.fetchTopicOffsetsByTimestamp(topic, base + 3500)
    assert.strictEqual(found.offset, '4')
  }
  await admin.deleteTopicRecords({ topic: 'js-codec-0', partitions: [{ partition: 0, offset: '5' }] })
  const [ends] = await admin.fetchTopicOffsets('js-codec-0')
  assert.deepStrictEqual([ends.low, ends.high], ['5', '20'])
  await producer.disconnect()
}

async function largeMessages() {
  await admin.createTopics({
    topics: [{ topic: 'js-large', configEntries: [{ name: 'max.message.bytes', value: '6000000' }] }],
  })
  const producer = kafka.producer({ retry: { retries: 0 } })
  await producer.connect()
  await producer.send({ topic: 'js-large', messages: [{ value: Buffer.alloc(5_000_000, 120) }] })
  await assert.rejects(producer.send({ topic: 'js-large', messages: [{ value: Buffer.alloc(6_500_000) }] }), /larg/)
  await producer.disconnect()
  const { consumer, seen } = await consume('js-large', 'js-large', 1, { maxBytesPerPartition: 1000 })
  await consumer.disconnect()
  assert.strictEqual(seen[0].value.length, 5_000_000)
}

async function groups() {
  const producer = kafka.producer()
  await producer.connect()
  const send = count => Promise.all(Array.from({ length: 4 }, (_, partition) => producer.send({
    topic: 'js', messages: Array.from({ length: count }, (_, n) => ({ partition, value: `${n}` })),
  })))
  await send(25)
  const first = await consume('js', 'js-group', 100)
  const rebalanced = new Promise(done => first.consumer.on(first.consumer.events.GROUP_JOIN, e => done(e.payload)))
  const second = await consume('js', 'js-group', 0)
  const { memberAssignment } = await rebalanced
  assert.strictEqual(memberAssignment.js.length, 2)
  const { groups: [described] } = await admin.describeGroups(['js-group'])
  assert.deepStrictEqual([described.state, described.members.length], ['Stable', 2])
  await send(5)
  while (first.seen.length + second.seen.length < 120) await new Promise(done => setTimeout(done, 20))
  const all = [...first.seen, ...second.seen].map(m => `${m.partition}/${m.offset}`)
  assert.strictEqual(new Set(all).size, 120)
  await second.consumer.disconnect()
  await first.consumer.disconnect()
  const [{ partitions }] = await admin.fetchOffsets({ groupId: 'js-group', topics: ['js'] })
  assert.deepStrictEqual(partitions.map(p => p.offset), ['30', '30', '30', '30'])
  await send(1)
  const { consumer, seen } = await consume('js', 'js-group', 4)
  await consumer.disconnect()
  assert.deepStrictEqual(seen.map(m => m.offset), ['30', '30', '30', '30'])
  await admin.setOffsets({ groupId: 'js-group', topic: 'js', partitions: [{ partition: 0, offset: '3' }] })
  const [reset] = await admin.fetchOffsets({ groupId: 'js-group', topics: ['js'] })
  assert.strictEqual(reset.partitions.find(p => p.partition === 0).offset, '3')
  assert.ok((await admin.listGroups()).groups.some(g => g.groupId === 'js-group'))
  await admin.deleteGroups(['js-group'])
  await producer.disconnect()
}

async function transactions() {
  await admin.createTopics({ topics: [{ topic: 'js-sink' }] })
  const producer = kafka.producer({ transactionalId: 'js-id', idempotent: true, maxInFlightRequests: 1 })
  await producer.connect()
  for (const word of ['kept', 'dropped', 'last']) {
    const transaction = await producer.transaction()
    await transaction.send({ topic: 'js-sink', messages: [{ value: word }] })
    const offsets = { topics: [{ topic: 'js', partitions: [{ partition: 0, offset: String(word.length) }] }] }
    await transaction.sendOffsets({ consumerGroupId: 'js-transactions', ...offsets })
    await (word === 'dropped' ? transaction.abort() : transaction.commit())
  }
  await producer.disconnect()
  const words = async (groupId, count, options) => {
    const { consumer, seen } = await consume('js-sink', groupId, count, options)
    await consumer.disconnect()
    return seen.map(m => m.value.toString())
  }
  assert.deepStrictEqual(await words('js-committed', 2), ['kept', 'last'])
  assert.deepStrictEqual(await words('js-all', 3, { readUncommitted: true }), ['kept', 'dropped', 'last'])
  const [{ partitions }] = await admin.fetchOffsets({ groupId: 'js-transactions', topics: ['js'] })
  assert.strictEqual(partitions.find(p => p.partition === 0).offset, '4')
}

async function rules() {
  const rule = {
    resourceType: AclResourceTypes.TOPIC, resourceName: 'js-acl', resourcePatternType: ResourcePatternTypes.PREFIXED,
    principal: 'User:ann', host: '*', operation: AclOperationTypes.READ, permissionType: AclPermissionTypes.ALLOW,
  }
  assert.ok(await admin.createAcls({ acl: [rule] }))
  const { resources } = await admin.describeAcls(rule)
  assert.deepStrictEqual(resources.map(r => [r.resourceName, r.acls[0].principal]), [['js-acl', 'User:ann']])
  const { filterResponses } = await admin.deleteAcls({ filters: [rule] })
  assert.strictEqual(filterResponses[0].matchingAcls.length, 1)
}

async function sasl() {
  const { SASL_BROKER, SASL_USER: username, SASL_PASSWORD: password, MECHANISMS } = process.env
  for (const mechanism of MECHANISMS.split(',')) {
    const as = secret => client({ brokers: [SASL_BROKER], sasl: { mechanism: mechanism.toLowerCase(), username, password: secret } })
    const producer = as(password).producer()
    await producer.connect()
    await producer.send({ topic: 'js-sasl', messages: [{ value: mechanism }] })
    await producer.disconnect()
    const wrong = as('wrong').producer({ retry: { retries: 0 } })
    await assert.rejects(wrong.connect(), e => /SASL/.test(`${e.name} ${e.message} ${e.cause}`))
  }
}

async function main() {
  await admin.connect()
  for (const part of [topicsAndConfigs, codecsKeysHeadersTimes, largeMessages, groups, transactions, rules, sasl]) {
    await part()
    console.log(part.name)
  }
  await admin.deleteTopics({ topics: ['js', 'js-large'] })
  assert.ok(!(await admin.listTopics()).includes('js'))
  await admin.disconnect()
  console.log('all good')
}

main().then(() => process.exit(0), e => {
  console.error(e)
  process.exit(1)
})
