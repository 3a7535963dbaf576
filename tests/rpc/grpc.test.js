// gRPC over HTTP/2, by @grpc/grpc-js; what every method answers is in
// rpc.test.js, whose clients speak gRPC too.
import assert from "node:assert/strict";
import { execFile, spawnSync } from "node:child_process";
import http2 from "node:http2";
import { after, before, test } from "node:test";
import { promisify } from "node:util";

import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

import { Server } from "./server.js";

const { tscaf: { v1: api } } = grpc.loadPackageDefinition(
  loader.loadSync("api/tscaf.proto", { keepCase: true, enums: String, longs: Number }));
const plain = grpc.credentials.createInsecure();
let server, ada;

before(async () => {
  server = await new Server().start();
  ada = server.face(1, 1);
});
after(async () => assert.equal(await server.stop(), 0));

const clientOf = (name, at = server, options = {}) => new api[name](at.grpc, plain, options);

// A unary call; resolves to its response, its trailers noted on the way.
function call(client, method, message, options = {}, metadata = new grpc.Metadata()) {
  return new Promise((done, lost) => {
    const running = client[method](message, metadata, options,
      (error, answer) => (error ? lost(error) : done(answer)));
    options.started?.(running);
  });
}

async function refused(promise, code, pattern) {
  const error = await promise.then(() => assert.fail("no error"), (e) => e);
  assert.equal(grpc.status[error.code], code, error.details);
  assert.match(error.details, pattern);
  return error;
}

test("unary: answers, errors, deadlines, cancellation", async () => {
  const monitor = clientOf("DriverMonitor");
  const good = { images: [{ data: ada }], input: "INPUT_KIND_CROP" };
  const seen = await call(monitor, "Analyze", good);
  const { probability } = seen.frames[0].faces[0].fatigue;
  assert.ok(probability > 0 && probability < 1);
  const error = await refused(call(monitor, "Analyze", { ...good, top_k: 101 }), "INVALID_ARGUMENT",
    /101 is over the limit of 100/);
  assert.ok(error.metadata.get("grpc-status-details-bin")[0].includes("top_k"));
  await refused(call(clientOf("Identities"), "GetIdentity", { id: "id_ä" }), "NOT_FOUND", /id_ä/);
  await refused(call(monitor, "Analyze", good, { deadline: Date.now() - 1 }),
    "DEADLINE_EXCEEDED", /./);
  await refused(call(monitor, "Analyze", good, { started: (c) => c.cancel() }), "CANCELLED", /./);
  monitor.close();
});

test("gzip both ways", async () => {
  const monitor = clientOf("DriverMonitor", server,
    { "grpc.default_compression_algorithm": grpc.compressionAlgorithms.gzip });
  const seen = await call(monitor, "Analyze", {
    images: Array(16).fill({ data: ada }), input: "INPUT_KIND_CROP",
    return: ["RETURN_PART_EMBEDDING", "RETURN_PART_CROP"] });
  assert.equal(seen.frames.length, 16);
  assert.deepEqual(seen.frames[15].faces[0].crop, seen.frames[0].faces[0].crop);
  monitor.close();
});

test("keys: as metadata", async () => {
  const own = await new Server().start();
  try {
    const admin = clientOf("Admin", own);
    const { secret } = await call(admin, "CreateKey", { name: "x", role: "ROLE_ADMIN" });
    await refused(call(admin, "ListKeys", {}), "UNAUTHENTICATED", /key/);
    const metadata = new grpc.Metadata();
    metadata.set("authorization", `Bearer ${secret}`);
    const { keys } = await call(admin, "ListKeys", {}, {}, metadata);
    assert.equal(keys[0].name, "x");
    admin.close();
  } finally {
    assert.equal(await own.stop(), 0);
  }
});

test("bodies at the limit and past it", async () => {
  const small = await new Server().start("--max-body-bytes", "1MiB");
  try {
    const monitor = clientOf("DriverMonitor", small);
    // 5 bytes of frame, 8 of two fields' heads: then the picture.
    const of = (n) => ({ images: [{ data: Buffer.alloc(n - 13) }] });
    await refused(call(monitor, "Analyze", of(1 << 20)), "FAILED_PRECONDITION", /no face detector/);
    await refused(call(monitor, "Analyze", of((1 << 20) + 1)), "RESOURCE_EXHAUSTED", /limit/);
    monitor.close();
  } finally {
    assert.equal(await small.stop(), 0);
  }
});

test("many calls on one connection, past its streams", async () => {
  const monitor = clientOf("DriverMonitor");
  const seen = await Promise.all(Array.from({ length: 300 }, () =>
    call(monitor, "Embed", { images: [{ data: ada }], input: "INPUT_KIND_CROP" })));
  for (const s of seen) assert.equal(s.frames[0].faces[0].embedding.length, 64);
  monitor.close();
});

test("draining: what was asked is answered, then the connection goes", async () => {
  const own = await new Server().start();
  const monitor = clientOf("DriverMonitor", own);
  const ask = () => call(monitor, "Embed", { images: [{ data: ada }], input: "INPUT_KIND_CROP" });
  await ask();
  const session = http2.connect(`http://${own.grpc}`);
  await new Promise((ready) => session.once("remoteSettings", ready));
  const goaway = new Promise((done) => session.once("goaway", done));
  const closed = new Promise((done) => session.once("close", done));
  assert.equal(await own.stop(), 0);
  assert.equal(await goaway, http2.constants.NGHTTP2_NO_ERROR);
  await closed;
  monitor.close();
});

// Not spawnSync: the server's log has to be read meanwhile.
test("h2load: REST over HTTP/2", { skip: spawnSync("h2load", ["--version"]).error && "no h2load" },
  async () => {
    const { stdout } = await promisify(execFile)("h2load",
      ["-n", "2000", "-c", "4", "-m", "32", `http://${server.grpc}/healthz`]);
    assert.match(stdout, /2000 succeeded, 0 failed, 0 errored/);
  });
