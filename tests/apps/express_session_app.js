// A web application with sessions: Express, express-session, and connect-redis over node-redis.
//
// It reads the connection as JSON from standard input, prints the port that it listens on, and serves until standard
// input ends.

const { RedisStore } = require("connect-redis");
const express = require("express");
const session = require("express-session");
const readline = require("node:readline");
const { createClient } = require("redis");

async function main() {
  const lines = readline.createInterface({ input: process.stdin });
  const { port, username, password, lifetime } = JSON.parse((await lines[Symbol.asyncIterator]().next()).value);
  const client = createClient({
    socket: { host: "127.0.0.1", port },
    credentialsProvider: { type: "async-credentials-provider", credentials: async () => ({ username, password }) },
  });
  client.on("error", (error) => console.error(error));
  await client.connect();

  const app = express();
  app.use(
    session({
      store: new RedisStore({ client, prefix: "express:session:" }),
      secret: "signs the cookies of this test",
      resave: false,
      saveUninitialized: false,
      rolling: true,
      cookie: { maxAge: lifetime * 1000 },
    }),
  );
  app.get("/visit/:name", (request, response) => {
    const previous = request.session.name ?? "anonymous";
    request.session.name = request.params.name;
    response.send(previous);
  });
  app.get("/", (request, response) => response.send(request.session.name ?? "anonymous"));
  app.get("/logout", (request, response, next) =>
    request.session.destroy((error) => (error ? next(error) : response.send("out"))),
  );
  // connect-redis lists all sessions with SCAN.
  app.get("/all", (request, response) =>
    request.sessionStore.all((error, sessions) => response.send(error ? error.message : String(sessions.length))),
  );
  const server = app.listen(0, "127.0.0.1", () => console.log(server.address().port));
  lines.on("close", () => process.exit());
}

main();
