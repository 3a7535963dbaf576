// Every method over every protocol, by clients that nobody here wrote.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { createRequire } from "node:module";
import { after, before, test } from "node:test";

import { Code, ConnectError, createClient } from "@connectrpc/connect";
import * as node from "@connectrpc/connect-node";
import * as web from "@connectrpc/connect-web";
import { GrpcWebFetchTransport } from "@protobuf-ts/grpcweb-transport";

import {
  Admin, DatasetKind, Datasets, DriverMonitor, ErrorDetailSchema, Identities, InputKind, Jobs,
  JobState, Models, ReturnPart, Role, Verdict, file_tscaf,
} from "./gen/es/tscaf_pb.js";
import { GRPCInferenceService } from "./gen/es/oip/inference_pb.js";
import { Server } from "./server.js";

const { DriverMonitorClient } = createRequire(import.meta.url)("./gen/ts/tscaf.client.js");

let server, ada, ada2, bob;

before(async () => {
  server = await new Server().start();
  [ada, ada2, bob] = [server.face(1, 1), server.face(1, 2), server.face(2, 1)];
});
after(async () => {
  const code = await server.stop();
  Server.killAll();
  assert.equal(code, 0);
});

// What each kind of client is made of.
function transports() {
  const baseUrl = server.url;
  const old = { baseUrl, httpVersion: "1.1" };
  const next = { baseUrl: `http://${server.grpc}`, httpVersion: "2" };
  const packed = { sendCompression: node.compressionGzip, compressMinBytes: 0 };
  return {
    "connect-node, protobuf": node.createConnectTransport({ ...old, useBinaryFormat: true }),
    "connect-node, JSON": node.createConnectTransport({ ...old, useBinaryFormat: false }),
    "connect-node, GET": node.createConnectTransport({ ...old, useHttpGet: true }),
    "connect-node, JSON by GET": node.createConnectTransport(
      { ...old, useHttpGet: true, useBinaryFormat: false }),
    "connect-node, gzip": node.createConnectTransport({ ...old, ...packed }),
    "connect-node, gRPC-Web": node.createGrpcWebTransport(old),
    "connect-node, gRPC-Web, gzip": node.createGrpcWebTransport({ ...old, ...packed }),
    "connect-node, HTTP/2": node.createConnectTransport({ ...next, useBinaryFormat: true }),
    "connect-node, HTTP/2, JSON by GET": node.createConnectTransport(
      { ...next, useHttpGet: true, useBinaryFormat: false }),
    "connect-node, HTTP/2, gRPC-Web": node.createGrpcWebTransport(next),
    "connect-node, gRPC": node.createGrpcTransport(next),
    "connect-node, gRPC, gzip": node.createGrpcTransport({ ...next, ...packed }),
    "connect-web": web.createConnectTransport({ baseUrl }),
    "connect-web, protobuf": web.createConnectTransport({ baseUrl, useBinaryFormat: true }),
    "connect-web, GET": web.createConnectTransport({ baseUrl, useHttpGet: true }),
    "connect-web, gRPC-Web": web.createGrpcWebTransport({ baseUrl }),
  };
}

async function refused(promise, code, pattern) {
  const error = ConnectError.from(await promise.then(() => assert.fail("no error"), (e) => e));
  assert.equal(Code[error.code], Code[code]);
  assert.match(error.rawMessage, pattern);
  return error;
}

async function everyMethod(transport) {
  const monitor = createClient(DriverMonitor, transport);
  const gallery = createClient(Identities, transport);
  const input = InputKind.CROP;
  const made = await gallery.createIdentity({ name: "Adä", metadata: { a: "b", c: "d" } });
  const id = made.id;
  assert.deepEqual(made.metadata, { a: "b", c: "d" });
  await gallery.updateIdentity({ id, newConsentRef: { case: "consentRef", value: "ref" } });
  const got = await gallery.getIdentity({ id });
  assert.equal(got.name, "Adä");
  assert.equal(got.consentRef, "ref");
  const face = await gallery.enrollFace({ identityId: id, image: { data: ada }, input });
  assert.ok(face.hasCrop);
  const list = await gallery.listFaces({ identityId: id });
  assert.equal(list.faces[0].id, face.id);
  const crop = await gallery.getFaceCrop({ identityId: id, faceId: face.id });
  assert.deepEqual([...crop.png.subarray(1, 4)], [...Buffer.from("PNG")]);
  const page = await gallery.listIdentities({ limit: 500 });
  assert.ok(page.identities.some((x) => x.id === id));

  const seen = await monitor.analyze({ images: [{ data: ada }, { data: bob }], input, topK: 2 });
  assert.equal(seen.frames.length, 2);
  const first = seen.frames[0].faces[0];
  assert.equal(first.identity.verdict, Verdict.MATCH);
  assert.equal(first.identity.matches[0].identityId, id);
  assert.ok(first.fatigue.probability > 0 && first.fatigue.probability < 1);
  const same = await monitor.verify({ image: { data: ada2 }, identityId: id, input });
  assert.ok(same.similarity > 0.5);
  const near = await monitor.search({ image: { data: ada2 }, input });
  assert.equal(near.face.identity.matches[0].identityId, id);
  const embedded = await monitor.embed({ images: [{ data: ada }, { data: ada2 }], input });
  const [a, b] = embedded.frames.map((f) => f.faces[0].embedding);
  const cosine = a.reduce((sum, v, i) => sum + v * b[i], 0);
  assert.ok(Math.abs(cosine - same.similarity) < 1e-4);

  const { png } = await monitor.explain({ image: { data: ada }, input });
  assert.deepEqual([...png.subarray(1, 4)], [...Buffer.from("PNG")]);
  await refused(monitor.explain({ image: { data: ada }, input, face: 1 }), Code.InvalidArgument,
    /1 face was found/);

  const models = await createClient(Models, transport).listModels({});
  assert.equal(models.models[0].model.name, "tiny");
  assert.ok(models.models[0].parameters > 0n);
  const audit = await createClient(Admin, transport).listAudit({ limit: 2 });
  assert.equal(audit.records[0].action, "face.enroll");
  await gallery.deleteFace({ identityId: id, faceId: face.id });
  await gallery.deleteIdentity({ id });
  await refused(gallery.getIdentity({ id }), Code.NotFound, new RegExp(id));
}

async function everyError(transport) {
  const monitor = createClient(DriverMonitor, transport);
  const images = [{ data: ada }];
  const error = await refused(monitor.analyze({ images, topK: 101 }), Code.InvalidArgument,
    /101 is over the limit of 100/);
  const [detail] = error.findDetails(ErrorDetailSchema);
  assert.equal(detail.field, "top_k");
  assert.equal(detail.reason, "OUT_OF_RANGE");
  await refused(monitor.analyze({ images: [] }), Code.InvalidArgument, /0 images/);
  await refused(monitor.analyze({ images: [{ data: Buffer.from("no picture") }], input: 2 }),
    Code.InvalidArgument, /picture|image/i);
  await refused(monitor.verify({ image: { data: ada }, identityId: "id_0", input: 2 }),
    Code.NotFound, /id_0/);
  await refused(createClient(Admin, transport).createKey({ name: "x", role: 9 }),
    Code.InvalidArgument, /role/);
  // The clients would give up by themselves: the server has to say it.
  const headers = { "Connect-Timeout-Ms": "0", "Grpc-Timeout": "0m" };
  await refused(monitor.analyze({ images, input: 2 }, { headers }), Code.DeadlineExceeded,
    /deadline passed/);
  const stop = new AbortController();
  const call = monitor.analyze({ images, input: 2 }, { signal: stop.signal });
  stop.abort();
  await refused(call, Code.Canceled, /./);
}

async function metadata(transport) {
  let given;
  await createClient(Models, transport).listModels({}, {
    headers: { "X-Request-Id": "mine-1" },
    onHeader: (h) => { given = h.get("x-request-id"); },
  });
  assert.equal(given, "mine-1");
}

test("every method, error and header, by every client of connect-es", async (t) => {
  for (const [name, transport] of Object.entries(transports()))
    await t.test(name, async () => {
      await everyMethod(transport);
      await everyError(transport);
      await metadata(transport);
    });
});

// The first message, and all of them to the end.
async function first(stream) {
  for await (const message of stream) return message;
}
async function last(stream) {
  let message;
  for await (message of stream);
  return message;
}

test("WatchJob: a stream's messages, end, error and cancellation, by every client", async () => {
  const some = createClient(Datasets, transports()["connect-node, protobuf"]);
  const { id: dataset } = await some.createDataset({ name: "d", kind: DatasetKind.FATIGUE });
  for (let i = 0; i < 8; i++)
    await some.addSample({ id: dataset, image: { data: i % 2 ? ada : bob }, input: InputKind.CROP,
      label: `${i % 2}`, group: `${i}` });
  const clients = Object.values(transports()).map((t) => createClient(Jobs, t));
  // It would take days: it ends when the test says so.
  const { id } = await clients[0].createJob({ fatigueDataset: dataset,
    settings: { steps: 10000000, batch: 2 } });
  await Promise.all(clients.map(async (client) => {
    const stop = new AbortController();
    const stream = client.watchJob({ id }, { signal: stop.signal })[Symbol.asyncIterator]();
    const { value } = await stream.next();
    assert.equal(value.id, id);
    stop.abort();
    await refused((async () => { while (!(await stream.next()).done); })(), Code.Canceled, /./);
    await refused(first(client.watchJob({ id: "job_0" })), Code.NotFound, /job_0/);
  }));
  const begun = [];
  const ends = clients.map((client) => {
    const stream = client.watchJob({ id })[Symbol.asyncIterator]();
    const one = stream.next();
    begun.push(one);
    return one.then(async ({ value }) =>
      (await last({ [Symbol.asyncIterator]: () => stream })) ?? value);
  });
  await Promise.all(begun);
  await clients[0].cancelJob({ id });
  for (const job of await Promise.all(ends)) assert.equal(job.state, JobState.CANCELLED);
});

test("AnalyzeStream: by connect-node, over HTTP/1.1 one half after the other", async () => {
  const all = transports();
  const crops = (n) => ({ images: Array(n).fill({ data: ada }), input: InputKind.CROP });
  for (const kind of ["protobuf", "JSON", "gzip", "HTTP/2", "gRPC"]) {
    const monitor = createClient(DriverMonitor, all[`connect-node, ${kind}`]);
    const [alone] = (await monitor.analyze(crops(1))).frames;
    const sizes = [];
    async function* camera(last) {
      for (let n = 1; n <= 5; n++) yield crops(n);
      yield last;
    }
    for await (const { frames } of monitor.analyzeStream(camera(crops(6)))) {
      sizes.push(frames.length);
      assert.deepEqual(frames.at(-1), alone, kind);
    }
    assert.deepEqual(sizes, [1, 2, 3, 4, 5, 6], kind);
    let answered = 0;
    await refused((async () => {
      for await (const _ of monitor.analyzeStream(camera(crops(0)))) answered++;
    })(), Code.InvalidArgument, /0 images/);
    assert.equal(answered, 5, kind);
  }
  // Over HTTP/2 a frame may wait for the answer to the one before it.
  const monitor = createClient(DriverMonitor, all["connect-node, HTTP/2"]);
  let heard = 0, tell = () => {};
  async function* patient() {
    for (let n = 1; n <= 3; n++) {
      yield crops(n);
      if (heard < n) await new Promise((done) => { tell = done; });
    }
  }
  for await (const { frames } of monitor.analyzeStream(patient())) {
    assert.equal(frames.length, ++heard);
    tell();
  }
  assert.equal(heard, 3);
  await refused((async () => {
    for await (const _ of createClient(DriverMonitor, all["connect-node, protobuf"]).analyzeStream(
      (async function* () { yield crops(1); })(), { headers: { "Connect-Timeout-Ms": "0" } }));
  })(), Code.DeadlineExceeded, /./);
});

test("gRPC-Web, binary and text, by @protobuf-ts", async () => {
  for (const format of ["binary", "text"]) {
    const transport = new GrpcWebFetchTransport({ baseUrl: server.url, format });
    const client = new DriverMonitorClient(transport);
    const { response, status } = await client.embed({ images: [{ data: ada }], input: 2, maxFaces: 0,
      priority: 0, minScore: 0 });
    assert.equal(status.code, "OK");
    assert.equal(response.frames[0].faces[0].embedding.length, 64);
    await assert.rejects(
      client.embed({ images: [], input: 2, maxFaces: 0, priority: 0, minScore: 0 }).response,
      (e) => e.code === "INVALID_ARGUMENT" && /0 images/.test(e.message));
  }
});

test("buf curl, by Connect and gRPC-Web", () => {
  for (const protocol of ["connect", "grpcweb"]) {
    const curl = (method, data) => spawnSync("tests/rpc/node_modules/.bin/buf", [
      "curl", "--schema", ".", "--protocol", protocol, "--data", data,
      `${server.url}/tscaf.v1.${method}`], { encoding: "utf8" });
    const good = curl("Models/ListModels", "{}");
    assert.equal(good.status, 0, good.stderr);
    assert.equal(JSON.parse(good.stdout).models[0].model.name, "tiny");
    const bad = curl("Identities/GetIdentity", '{"id":"id_1"}');
    assert.notEqual(bad.status, 0);
    assert.equal(JSON.parse(bad.stderr).code, "not_found");
  }
});

test("keys: as over REST", async () => {
  const own = await new Server().start();
  try {
    const made = await fetch(own.url + "/v1/keys", {
      method: "POST", headers: { "Content-Type": "application/json" },
      body: '{"name":"x","role":"admin"}' });
    const { secret } = await made.json();
    for (const make of [node.createConnectTransport, node.createGrpcWebTransport]) {
      const transport = make({ baseUrl: own.url, httpVersion: "1.1" });
      const admin = createClient(Admin, transport);
      await refused(admin.listKeys({}), Code.Unauthenticated, /key/);
      const headers = { Authorization: `Bearer ${secret}` };
      const { keys } = await admin.listKeys({}, { headers });
      assert.equal(keys[0].role, Role.ADMIN);
      const key = await admin.createKey({ name: "y", role: Role.ANALYZE }, { headers });
      await refused(admin.listKeys({}, { headers: { "X-API-Key": key.secret } }),
        Code.PermissionDenied, /role admin; yours has analyze/);
      await admin.deleteKey({ id: key.key.id }, { headers });
    }
  } finally {
    assert.equal(await own.stop(), 0);
  }
});

// Connect's JSON has full names of enum values and 64-bit numbers as texts.
const words = new Map(file_tscaf.enums.flatMap((e) => e.values.map(
  (v) => [v.name, v.name.slice(e.sharedPrefix.length).toLowerCase()])));

function asRest(value, key) {
  if (Array.isArray(value)) return value.map((v) => asRest(v, key));
  if (value && typeof value === "object")
    return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, asRest(v, k)]));
  if (words.has(value)) return words.get(value);
  if (["parameters", "multiply_adds", "seq"].includes(key)) return Number(value);
  return value;
}

async function post(path, body) {
  const answer = await fetch(server.url + path, {
    method: "POST", headers: { "Content-Type": "application/json", "X-Request-Id": "same" },
    body: JSON.stringify(body) });
  return answer.json();
}

test("REST JSON and Connect JSON answer alike", async () => {
  const gallery = "/tscaf.v1.Identities/";
  const monitor = "/tscaf.v1.DriverMonitor/";
  const crop = { data: ada.toString("base64") };
  const { id } = await post("/v1/identities", { name: "Cy" });
  await post(`/v1/identities/${id}/faces`, { image: crop, input: "crop" });
  const get = async (path) => (await fetch(server.url + path)).json();
  const rows = [
    [get(`/v1/identities/${id}`), post(gallery + "GetIdentity", { id })],
    [get(`/v1/identities/${id}/faces`), post(gallery + "ListFaces", { identity_id: id })],
    [get("/v1/identities?query=cy"), post(gallery + "ListIdentities", { query: "cy" })],
    [get("/v1/models"), post("/tscaf.v1.Models/ListModels", {})],
    [get("/v1/audit"), post("/tscaf.v1.Admin/ListAudit", {})],
  ];
  for (const [method, body] of [
    ["Analyze", { images: [crop], input: "crop", return: ["embedding", "crop"], topK: 3 }],
    ["Embed", { images: [crop, crop], input: "INPUT_KIND_CROP" }],
    ["Verify", { image: crop, identity_id: id, input: "crop" }],
    ["Search", { image: crop, input: "crop" }]])
    rows.push([post("/v1/" + method.toLowerCase(), body), post(monitor + method, body)]);
  for (const pair of rows) {
    const [rest, connect] = await Promise.all(pair);
    for (const answer of [rest, connect]) {
      assert.equal(answer.code, undefined, answer.message);
      delete answer.timing_ms;
      delete answer.batch_size;
    }
    assert.deepEqual(asRest(connect), rest);
  }
  for (const [path, rpc, body] of [
    ["/v1/analyze", monitor + "Analyze", { images: [] }],
    ["/v1/search", monitor + "Search", { nmae: 1 }],
    ["/v1/verify", monitor + "Verify", { image: crop, input: "crop", identity_id: "id_x" }],
    ["/v1/identities", gallery + "CreateIdentity", { name: "" }]]) {
    const rest = await post(path, body);
    const { details, ...connect } = await post(rpc, body);
    assert.deepEqual({ ...connect, details: details.map((d) => d.debug) }, rest);
  }
  await post(gallery + "DeleteIdentity", { id });
});

test("the inference service by every client, as /v2 answers", async () => {
  const pixels = Uint8Array.from({ length: 112 * 112 * 3 }, (_, i) => (i * 7) % 256);
  const shape = [1, 112, 112, 3];
  const input = { name: "images", datatype: "UINT8", shape: shape.map(BigInt) };
  const planes = Array.from({ length: pixels.length },
    (_, i) => (pixels[(i % 12544) * 3 + Math.floor(i / 12544)] - 127.5) / 127.5);
  const floats = { name: "images", datatype: "FP32", shape: [1n, 3n, 112n, 112n] };
  const { outputs, model_version } = await post("/v2/models/tiny/infer", {
    inputs: [{ name: "images", datatype: "UINT8", shape, data: [...pixels] }] });
  const want = Math.fround(outputs[0].data[0]);
  for (const transport of Object.values(transports())) {
    const client = createClient(GRPCInferenceService, transport);
    const about = await client.modelMetadata({ name: "tiny" });
    assert.deepEqual(about.versions, [model_version]);
    for (const request of [
      { inputs: [input], rawInputContents: [pixels] },
      { inputs: [{ ...input, contents: { uintContents: [...pixels] } }] },
      { inputs: [{ ...floats, contents: { fp32Contents: planes } }] }]) {
      const answer = await client.modelInfer({ modelName: "tiny", id: "1", ...request });
      const [raw] = answer.rawOutputContents;
      assert.equal(answer.id, "1");
      assert.equal(answer.outputs[0].name, "fatigue_probability");
      assert.equal(new DataView(raw.buffer, raw.byteOffset).getFloat32(0, true), want);
    }
    await refused(client.modelInfer({ modelName: "resnet" }), Code.NotFound, /resnet/);
    await refused(client.modelInfer({ modelName: "tiny", inputs: [
      { ...input, contents: { uintContents: [256] } }] }), Code.InvalidArgument, /is 256/);
  }
});

test("large messages, at the limit and past it", async () => {
  const small = await new Server().start("--max-body-bytes", "1MiB");
  try {
    const url = small.url + "/tscaf.v1.DriverMonitor/Analyze";
    const send = async (bytes, headers) => fetch(url, {
      method: "POST", headers: { "Content-Type": "application/proto", ...headers }, body: bytes });
    const of = (n) => {
      const bytes = Buffer.alloc(n); // one picture of zeros fills it
      bytes.set([0x0a, 0x80 | ((n - 4) & 127), 0x80 | (((n - 4) >> 7) & 127), (n - 4) >> 14]);
      bytes.set([0x0a, 0x80 | ((n - 8) & 127), 0x80 | (((n - 8) >> 7) & 127), (n - 8) >> 14], 4);
      return bytes;
    };
    const fits = await send(of(1 << 20));
    assert.match((await fits.json()).message, /no face detector/); // it was read
    const over = await send(of((1 << 20) + 1));
    assert.equal((await over.json()).code, "resource_exhausted");
    const client = createClient(DriverMonitor, node.createConnectTransport({
      baseUrl: small.url, httpVersion: "1.1" })); // chunked: told at its end
    await refused(client.analyze({ images: [{ data: Buffer.alloc(1 << 20) }] }),
      Code.ResourceExhausted, /limit/);
    // And what is large going out: embeddings and crops of 16 faces, packed.
    const many = await client.analyze({
      images: Array(16).fill({ data: ada }), input: InputKind.CROP,
      return: [ReturnPart.EMBEDDING, ReturnPart.CROP] });
    assert.equal(many.frames.length, 16);
    assert.deepEqual(many.frames[15].faces[0].crop, many.frames[0].faces[0].crop);
  } finally {
    assert.equal(await small.stop(), 0);
  }
});

test("32 clients at once, of every kind", async () => {
  const kinds = Object.values(transports());
  await Promise.all(Array.from({ length: 32 }, async (_, i) => {
    const client = createClient(DriverMonitor, kinds[i % kinds.length]);
    for (let n = 0; n < 5; n++) {
      const seen = await client.analyze({ images: [{ data: i % 2 ? ada : bob }], input: 2 });
      assert.equal(seen.frames[0].faces.length, 1);
    }
  }));
});
