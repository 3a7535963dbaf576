// gRPC over HTTP/2, by @grpc/grpc-js; what every method answers is in
// rpc.test.js, whose clients speak gRPC too.
import assert from "node:assert/strict";
import { execFile, spawnSync } from "node:child_process";
import http2 from "node:http2";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { promisify } from "node:util";
import { gunzipSync } from "node:zlib";

import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

import { Server } from "./server.js";

const { tscaf: { v1: api } } = grpc.loadPackageDefinition(
  loader.loadSync("api/tscaf.proto", { keepCase: true, enums: String, longs: Number }));
const { Health } = grpc.loadPackageDefinition(
  loader.loadSync("api/health/health.proto", { enums: String, defaults: true })).grpc.health.v1;
const { ServerReflection } = grpc.loadPackageDefinition(
  loader.loadSync("api/reflection/reflection.proto", { keepCase: true, oneofs: true })).grpc.reflection.v1;
const plain = grpc.credentials.createInsecure();
let server, ada;

before(async () => {
  server = await new Server().start();
  ada = server.face(1, 1);
});
after(async () => {
  const code = await server.stop();
  Server.killAll();
  assert.equal(code, 0);
});

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

// The bytes that answer a message, its frame's head among them.
async function raw(method, message) {
  const body = method.requestSerialize(message);
  const head = Buffer.alloc(5);
  head.writeUInt32BE(body.length, 1);
  const session = http2.connect(`http://${server.grpc}`);
  const stream = session.request({ ":method": "POST", ":path": method.path, te: "trailers",
    "content-type": "application/grpc", "grpc-accept-encoding": "identity,gzip" });
  stream.end(Buffer.concat([head, body]));
  const pieces = [];
  for await (const piece of stream) pieces.push(piece);
  session.close();
  return Buffer.concat(pieces);
}

test("gzip both ways", async () => {
  const monitor = clientOf("DriverMonitor", server,
    { "grpc.default_compression_algorithm": grpc.compressionAlgorithms.gzip });
  const seen = await call(monitor, "Analyze", {
    images: Array(16).fill({ data: ada }), input: "INPUT_KIND_CROP",
    return: ["RETURN_PART_EMBEDDING", "RETURN_PART_CROP"] });
  assert.equal(seen.frames.length, 16);
  assert.deepEqual(seen.frames[15].faces[0].crop, seen.frames[0].faces[0].crop);
  const { Embed } = api.DriverMonitor.service;
  const sixteen = { images: Array(16).fill({ data: ada }), input: "INPUT_KIND_CROP" };
  const bytes = await raw(Embed, sixteen);
  assert.equal(bytes[0], 1, "the answer is packed");
  const frames = Embed.responseDeserialize(gunzipSync(bytes.subarray(5))).frames;
  assert.equal(frames[15].faces[0].embedding.length, 64);
  assert.equal((await raw(Embed, { ...sixteen, images: [{ data: ada }] }))[0], 0, "short");
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

test("TLS: calls and streams; no plain text, no other root", async () => {
  const cert = join(server.dir, "cert.pem"), key = join(server.dir, "key.pem");
  const made = spawnSync("openssl", ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
    "-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", cert]);
  assert.equal(made.status, 0, String(made.stderr));
  const own = await new Server().start("--grpc-cert", cert, "--grpc-key", key);
  const at = (credentials) => new api.DriverMonitor(own.grpc, credentials);
  const monitor = at(grpc.credentials.createSsl(readFileSync(cert)));
  const many = crops(...Array(16).fill(ada));
  const answers = await Promise.all(Array.from({ length: 20 }, () => call(monitor, "Analyze", many)));
  for (const { frames } of answers) assert.equal(frames.length, 16);
  const camera = new Camera(monitor);
  for (let i = 0; i < 30; i++) camera.call.write(many);
  camera.call.end();
  await camera.ends("OK", /^/);
  assert.equal(camera.answers.length, 30);
  for (const other of [plain, grpc.credentials.createSsl()]) {
    const client = at(other);
    await refused(call(client, "Analyze", many, { deadline: Date.now() + 60000 }), "UNAVAILABLE", /./);
    client.close();
  }
  assert.equal(await own.stop(), 0);
  monitor.close();
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

test("health: checked and watched, until the server ends", async () => {
  const own = await new Server().start();
  const client = new Health(own.grpc, plain);
  for (const service of ["", "tscaf.v1.DriverMonitor", "inference.GRPCInferenceService"])
    assert.equal((await call(client, "Check", { service })).status, "SERVING");
  await refused(call(client, "Check", { service: "tscaf.v1.Driver" }), "NOT_FOUND", /v1\.Driver"/);
  const watch = (service) => {
    const seen = [];
    const running = client.Watch({ service });
    const first = new Promise((told) => running.once("data", told));
    const ended = new Promise((done, lost) => running.on("error", lost).on("end", () => done(seen)));
    running.on("data", ({ status }) => seen.push(status));
    return { first, ended };
  };
  const ours = watch("tscaf.v1.Models"), other = watch("tscaf.v1.Driver");
  await Promise.all([ours.first, other.first]);
  assert.equal(await own.stop(), 0);
  assert.deepEqual(await ours.ended, ["SERVING", "NOT_SERVING"]);
  assert.deepEqual(await other.ended, ["SERVICE_UNKNOWN"]);
  client.close();
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

// One AnalyzeStream: write, end, cancel; next() is its next answer, and
// status its end.
class Camera {
  answers = [];
  waiting = [];

  constructor(monitor, options = {}, metadata = new grpc.Metadata()) {
    this.call = monitor.AnalyzeStream(metadata, options);
    this.call.on("data", (answer) => {
      const told = this.waiting.shift();
      told ? told.done(answer) : this.answers.push(answer);
    });
    this.call.on("error", () => {});
    this.status = new Promise((done) => this.call.on("status", (status) => {
      this.waiting.forEach((w) => w.lost(new Error(status.details)));
      done(status);
    }));
  }

  next() {
    if (this.answers.length) return Promise.resolve(this.answers.shift());
    return new Promise((done, lost) => this.waiting.push({ done, lost }));
  }

  async ends(code, pattern) {
    const { code: seen, details } = await this.status;
    assert.equal(grpc.status[seen], code, details);
    assert.match(details, pattern);
  }
}
const crops = (...images) => ({ images: images.map((data) => ({ data })), input: "INPUT_KIND_CROP" });

test("AnalyzeStream: each frame is answered before the next is sent", async () => {
  const monitor = clientOf("DriverMonitor");
  const camera = new Camera(monitor);
  const alone = await call(monitor, "Analyze", crops(ada));
  for (let n = 1; n <= 5; n++) {
    camera.call.write(crops(...Array(n).fill(ada)));
    const { frames } = await camera.next();
    assert.equal(frames.length, n);
    assert.deepEqual(frames[n - 1], alone.frames[0]);
  }
  camera.call.end();
  await camera.ends("OK", /^/);
  monitor.close();
});

test("AnalyzeStream: many in a row, packed too, answered in order", async () => {
  const monitor = clientOf("DriverMonitor", server,
    { "grpc.default_compression_algorithm": grpc.compressionAlgorithms.gzip });
  const camera = new Camera(monitor);
  const sizes = Array.from({ length: 60 }, (_, i) => 1 + (i * 7) % 5);
  for (const n of sizes) camera.call.write(crops(...Array(n).fill(ada)));
  camera.call.end();
  await camera.ends("OK", /^/);
  assert.deepEqual(camera.answers.map((a) => a.frames.length), sizes);
  const none = new Camera(monitor);
  none.call.end();
  await none.ends("OK", /^/);
  monitor.close();
});

test("AnalyzeStream: the first broken one ends it, after the answers before it", async () => {
  const monitor = clientOf("DriverMonitor");
  const camera = new Camera(monitor);
  for (const message of [crops(ada), crops(ada), { ...crops(ada), top_k: 101 }, crops(ada)])
    camera.call.write(message);
  await camera.ends("INVALID_ARGUMENT", /101 is over the limit of 100/);
  assert.equal(camera.answers.length, 2);
  const first = new Camera(monitor);
  first.call.write(crops());
  await first.ends("INVALID_ARGUMENT", /images/);
  monitor.close();
});

test("AnalyzeStream: one message at the limit and past it; streams may be longer", async () => {
  const small = await new Server().start("--max-body-bytes", "1MiB");
  try {
    const monitor = clientOf("DriverMonitor", small);
    const of = (n) => ({ images: [{ data: Buffer.alloc(n - 13) }] });
    let camera = new Camera(monitor);
    camera.call.write(of(1 << 20));
    await camera.ends("FAILED_PRECONDITION", /no face detector/);
    camera = new Camera(monitor);
    camera.call.write(of((1 << 20) + 1));
    await camera.ends("RESOURCE_EXHAUSTED", /1048577 bytes, the limit is 1048576/);
    camera = new Camera(monitor);
    const padded = Buffer.concat([ada, Buffer.alloc(300000)]); // behind the PNG's end
    for (let i = 0; i < 12; i++) camera.call.write(crops(padded));
    camera.call.end();
    await camera.ends("OK", /^/);
    assert.equal(camera.answers.length, 12);
    monitor.close();
  } finally {
    assert.equal(await small.stop(), 0);
  }
});

test("AnalyzeStream: a client that does not read is not read from", async () => {
  const session = http2.connect(`http://${server.grpc}`, { settings: { initialWindowSize: 0 } });
  const stream = session.request({ ":method": "POST", "content-type": "application/grpc",
    ":path": "/tscaf.v1.DriverMonitor/AnalyzeStream", te: "trailers" });
  // A message of 70 kB, whose picture is the drawn face with bytes behind it.
  const picture = Buffer.concat([ada, Buffer.alloc(70000 - ada.length)]);
  const varint = (n) => (n < 128 ? [n] : [(n & 127) | 128, ...varint(n >> 7)]);
  const image = Buffer.from([0x0a, ...varint(picture.length), ...picture]);
  const message = Buffer.from([0x0a, ...varint(image.length), ...image, 0x10, 2]);
  const head = Buffer.alloc(5);
  head.writeUInt32BE(message.length, 1);
  const frame = Buffer.concat([head, message]);
  let answered = 0, written = 0;
  stream.on("data", (data) => { answered += data.length; });
  await new Promise((ready) => session.once("remoteSettings", ready));
  const more = () => stream.write(frame, (error) => { if (!error && ++written < 40) more(); });
  more(); // one by one: node would count what it writes together once
  // 2.8 MB: 14 fit into the window of 1 MiB, and no more go.
  while (written < 14) await new Promise((later) => setTimeout(later, 20));
  for (let i = 0; i < 5; i++)
    await call(clientOf("DriverMonitor"), "Analyze", crops(ada)); // others are served
  assert.equal(written, 14);
  assert.equal(answered, 0);
  stream.close(http2.constants.NGHTTP2_CANCEL);
  session.close();
});

test("AnalyzeStream: cancelled, past its deadline, drained in mid-stream", async () => {
  const own = await new Server().start();
  const monitor = clientOf("DriverMonitor", own);
  const working = new Camera(monitor);
  for (let i = 0; i < 20; i++) working.call.write(crops(...Array(8).fill(ada)));
  await working.next();
  working.call.cancel();
  await working.ends("CANCELLED", /./);
  const resting = new Camera(monitor);
  resting.call.write(crops(ada));
  await resting.next();
  resting.call.cancel();
  await resting.ends("CANCELLED", /./);
  const late = new Camera(monitor, { deadline: Date.now() + 1000 }); // never ended, whatever is answered in time
  late.call.write(crops(ada));
  await late.ends("DEADLINE_EXCEEDED", /./);
  const drained = new Camera(monitor);
  drained.call.write(crops(ada));
  await drained.next();
  const stopped = own.stop();
  await drained.ends("UNAVAILABLE", /draining/);
  assert.equal(await stopped, 0);
  monitor.close();
});

test("AnalyzeStream: a message that is cut off, or never comes", async () => {
  const own = await new Server().start("--idle-timeout-ms", "1000");
  const session = http2.connect(`http://${own.grpc}`);
  const half = session.request({ ":method": "POST", "content-type": "application/grpc",
    ":path": "/tscaf.v1.DriverMonitor/AnalyzeStream", te: "trailers" });
  const said = new Promise((done) => half.once("response", done));
  half.end(Buffer.from([0, 0, 0, 0, 9, 1, 2]));
  const { "grpc-status": status, "grpc-message": text } = await said;
  assert.equal(status, "3");
  assert.match(text, /cut off/);
  session.close();
  const monitor = clientOf("DriverMonitor", own);
  await new Camera(monitor).ends("DEADLINE_EXCEEDED", /no whole message came for 1000 ms/);
  monitor.close();
  assert.equal(await own.stop(), 0);
});

test("AnalyzeStream: ends when its key is revoked", async () => {
  const own = await new Server().start();
  const admin = clientOf("Admin", own), monitor = clientOf("DriverMonitor", own);
  const keyed = (secret) => {
    const metadata = new grpc.Metadata();
    metadata.set("x-api-key", secret);
    return metadata;
  };
  const { secret: root } = await call(admin, "CreateKey", { name: "root", role: "ROLE_ADMIN" });
  const { secret, key } = await call(admin, "CreateKey", { name: "x", role: "ROLE_ANALYZE" }, {},
    keyed(root));
  const camera = new Camera(monitor, {}, keyed(secret));
  camera.call.write(crops(ada));
  await camera.next();
  await call(admin, "DeleteKey", { id: key.id }, {}, keyed(root));
  camera.call.write(crops(ada));
  await camera.ends("UNAUTHENTICATED", /not known here/);
  assert.equal(camera.answers.length, 0);
  admin.close();
  monitor.close();
  assert.equal(await own.stop(), 0);
});

test("AnalyzeStream: refused by name as gRPC-Web, which streams no requests", async () => {
  const answer = await fetch(`${server.url}/tscaf.v1.DriverMonitor/AnalyzeStream`, {
    method: "POST", headers: { "Content-Type": "application/grpc-web+proto" }, body: Buffer.alloc(5) });
  assert.match(await answer.text(), /AnalyzeStream takes a stream: it is served as gRPC .* and as Connect/);
});

// What buf curl prints, which knows the server's address and nothing else. Not
// spawnSync: the server's log has to be read meanwhile.
async function bufCurl(at, ...args) {
  const { stdout } = await promisify(execFile)("tests/rpc/node_modules/.bin/buf",
    ["curl", "--protocol", "grpc", "--http2-prior-knowledge", ...args.slice(0, -1),
      `http://${at.grpc}${args.at(-1)}`]);
  return stdout;
}

test("reflection: buf curl calls what it was told of; both versions", async () => {
  const services = ["grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection", "inference.GRPCInferenceService", "tscaf.v1.Admin",
    "tscaf.v1.Datasets", "tscaf.v1.DriverMonitor", "tscaf.v1.Identities", "tscaf.v1.Jobs",
    "tscaf.v1.Models"];
  for (const version of ["grpc-v1", "grpc-v1alpha"])
    assert.deepEqual((await bufCurl(server, "--reflect-protocol", version, "--list-services", ""))
      .trim().split("\n"), services);
  const models = await bufCurl(server, "-d", "{}", "/tscaf.v1.Models/ListModels");
  assert.equal(JSON.parse(models).models[0].model.name, "tiny");
  const health = await bufCurl(server, "-d", "{}", "/grpc.health.v1.Health/Check");
  assert.equal(JSON.parse(health).status, "SERVING");
});

test("reflection: what it tells of is there, and nobody is told without a key", async () => {
  const own = await new Server().start();
  const methods = (await bufCurl(own, "--list-methods", "")).trim().split("\n");
  const admin = clientOf("Admin", own);
  const { secret } = await call(admin, "CreateKey", { name: "x", role: "ROLE_ANALYZE" });
  const client = new grpc.Client(own.grpc, plain);
  const same = (bytes) => bytes;
  const ask = (method, key) => new Promise((done) => {
    const metadata = new grpc.Metadata();
    if (key) metadata.set("x-api-key", key);
    client.makeUnaryRequest("/" + method, same, same, Buffer.alloc(0), metadata,
      (error) => done(error ? grpc.status[error.code] : "OK"));
  });
  assert.ok(methods.length > 50);
  const open = /^grpc\.health|\/Server(Live|Ready)$/;
  for (const method of methods)
    if (!open.test(method)) assert.equal(await ask(method), "UNAUTHENTICATED", method);
  assert.equal(await ask("tscaf.v1.Models/NoSuch"), "UNIMPLEMENTED");
  await assert.rejects(bufCurl(own, "--list-methods", ""), /not authenticated/);
  await bufCurl(own, "-H", `x-api-key: ${secret}`, "--reflect-header", `x-api-key: ${secret}`,
    "--list-methods", "");
  client.close();
  admin.close();
  assert.equal(await own.stop(), 0);
});

test("reflection: names at every depth; what is not there is said, and the stream goes on", async () => {
  const client = new ServerReflection(server.grpc, plain);
  const stream = client.ServerReflectionInfo();
  const answers = [];
  stream.on("data", (answer) => answers.push(answer));
  const ended = new Promise((done, lost) => stream.on("end", done).on("error", lost));
  const long = "ä".repeat(500);
  const rows = [
    [{ file_by_filename: "tscaf/v1/tscaf.proto" }, /tscaf\.proto/],
    [{ file_by_filename: "tscaf.proto" }, /no file "tscaf\.proto"/],
    [{ file_containing_symbol: "tscaf.v1.DriverMonitor" }, /tscaf\.proto/],
    [{ file_containing_symbol: "tscaf.v1.DriverMonitor.AnalyzeStream" }, /tscaf\.proto/],
    [{ file_containing_symbol: "tscaf.v1.AnalyzeRequest.images" }, /tscaf\.proto/],
    [{ file_containing_symbol: "tscaf.v1.InputKind" }, /tscaf\.proto/],
    [{ file_containing_symbol: "grpc.health.v1.HealthCheckResponse.ServingStatus" }, /health\.proto/],
    [{ file_containing_symbol: "inference.ModelInferRequest.InferInputTensor" }, /inference\.proto/],
    [{ file_containing_symbol: "tscaf.v1" }, /no symbol "tscaf\.v1"/],
    [{ file_containing_symbol: "tscaf.v1." }, /no symbol/],
    [{ file_containing_symbol: "tscaf.v1.Driver" }, /no symbol/],
    [{ file_containing_symbol: "tscaf.v1.DriverMonitor.Analyze.x" }, /no symbol/],
    [{ file_containing_symbol: "" }, /no symbol/],
    [{ file_containing_symbol: long }, /no symbol "ä{75}"/],
    [{ all_extension_numbers_of_type: "tscaf.v1.AnalyzeRequest" }, /AnalyzeRequest/],
    [{ all_extension_numbers_of_type: "tscaf.v1.Models" }, /no message/],
    [{ file_containing_extension: { containing_type: "tscaf.v1.AnalyzeRequest", extension_number: 9 } },
      /no extension of "tscaf/],
    [{}, /nothing/],
  ];
  for (const [question] of rows) stream.write({ host: "here", ...question });
  stream.end();
  await ended;
  rows.forEach(([question, pattern], i) => {
    const { valid_host: host, original_request: asked, message_response: kind, ...rest } = answers[i];
    const text = JSON.stringify(question);
    const said = { file_descriptor_response: (r) => String(r.file_descriptor_proto),
      all_extension_numbers_response: (r) => r.base_type_name,
      error_response: (r) => (assert.equal(r.error_code, text === "{}" ? 3 : 5), r.error_message) };
    assert.equal(host, "here");
    assert.equal(asked.message_request, Object.keys(question)[0], text);
    assert.match(said[kind](rest[kind]), pattern, text);
    assert.equal(kind === "error_response", /no |nothing/.test(pattern.source), text);
  });
  client.close();
});

// Not spawnSync: the server's log has to be read meanwhile.
test("h2load: REST over HTTP/2", { skip: spawnSync("h2load", ["--version"]).error && "no h2load" },
  async () => {
    const { stdout } = await promisify(execFile)("h2load",
      ["-n", "2000", "-c", "4", "-m", "32", `http://${server.grpc}/healthz`]);
    assert.match(stdout, /2000 succeeded, 0 failed, 0 errored/);
  });
