// Clients of ioredis: sessions with the events of their expiry, a queue with a worker, channels, and scripts.
//
// It reads the connections as JSON from standard input, and prints the results as JSON.

const fs = require("node:fs");
const Redis = require("ioredis");

const { session, queue } = JSON.parse(fs.readFileSync(0, "utf8"));
const clients = [];

function connect(connection, options) {
  const client = new Redis({ host: "127.0.0.1", ...connection, maxRetriesPerRequest: 0, ...options });
  client.on("error", (error) => console.error(error.message));
  clients.push(client);
  return client;
}

async function subscribe(client, channel) {
  const message = new Promise((resolve) => client.once("message", (_, text) => resolve(text)));
  await client.subscribe(channel);
  return { message };
}

async function useSessions() {
  // The role may not call INFO, with which ioredis checks whether Redis still loads its data.
  const options = { enableReadyCheck: false };
  const client = connect(session, options);
  const key = "express:session:ioredis";
  const expiry = await subscribe(connect(session, options), "__keyevent@0__:expired");
  await client.set(key, "short", "PX", 50);
  const expired = await expiry.message;
  await client.setex(key, 60, "value");
  await client.expire(key, 120);
  const [[, value], [, ttl], [, deleted]] = await client.multi().get(key).ttl(key).del(key).exec();
  return { expired, value, ttl, deleted };
}

async function useQueue() {
  const client = connect(queue);
  const worker = connect(queue);
  const done = await subscribe(connect(queue), "orders:done");
  const waiting = worker.blmove("orders:waiting", "orders:running", "RIGHT", "LEFT", 10);
  await client.lpush("orders:waiting", "first");
  const job = await waiting;
  await client.hset(`orders:job:${job}`, { state: "running", tries: 1 });
  const tries = await client.hincrby(`orders:job:${job}`, "tries", 1);
  await client.zadd("orders:later", 20, "third", 10, "second");
  const [next] = await client.zpopmin("orders:later");
  await client.xgroup("CREATE", "orders:log", "workers", "$", "MKSTREAM");
  await client.xadd("orders:log", "*", "job", job);
  const [[, entries]] = await client.xreadgroup("GROUP", "workers", "one", "STREAMS", "orders:log", ">");
  await client.publish("orders:done", job);
  return { job, tries, next, entries: entries.length, done: await done.message };
}

async function useScripts() {
  const client = connect(queue);
  const lua = "return 2 * redis.call('INCR', KEYS[1])";
  client.defineCommand("double", { numberOfKeys: 1, lua });
  const refused = await client.double("orders:count").catch((error) => error.message);
  const digest = await client.script("LOAD", lua);
  return { refused, doubled: await client.evalsha(digest, 1, "orders:count") };
}

async function main() {
  const results = { session: await useSessions(), queue: await useQueue(), scripts: await useScripts() };
  console.log(JSON.stringify(results));
  clients.forEach((client) => client.disconnect());
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
