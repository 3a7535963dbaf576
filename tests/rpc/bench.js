// Server CPU per Analyze of one crop: the same bytes over REST, Connect,
// gRPC-Web and gRPC. PROGRAMS=build/release node tests/rpc/bench.js [N]
import { readFileSync } from "node:fs";
import { Agent, request } from "node:http";

import { create, toBinary } from "@bufbuild/protobuf";
import grpc from "@grpc/grpc-js";

import { AnalyzeRequestSchema, InputKind } from "./gen/es/tscaf_pb.js";
import { Server } from "./server.js";

const N = Number(process.argv[2] ?? 400);
const ROUNDS = 5;
const agent = new Agent({ keepAlive: true, maxSockets: 1 });
const server = await new Server().start();
const face = server.face(1, 1);
const message = toBinary(AnalyzeRequestSchema,
  create(AnalyzeRequestSchema, { images: [{ data: face }], input: InputKind.CROP }));
const frame = Buffer.alloc(5);
frame.writeUInt32BE(message.length, 1);

const ANALYZE = "/tscaf.v1.DriverMonitor/Analyze";
const monitor = new grpc.Client(server.grpc, grpc.credentials.createInsecure());

const ways = {
  REST: () => send("/v1/analyze?input=crop", "image/png", face),
  Connect: () => send(ANALYZE, "application/proto", message),
  "gRPC-Web": () => send(ANALYZE, "application/grpc-web+proto", Buffer.concat([frame, message])),
  gRPC: call,
};

function send(path, type, body) {
  return new Promise((done, failed) => {
    const r = request(server.url + path, { method: "POST", agent,
      headers: { "Content-Type": type, "Content-Length": body.length } }, (a) => {
      a.resume().on("end", () => a.statusCode === 200 ? done() : failed(a.statusCode));
    });
    r.on("error", failed).end(body);
  });
}

// The message as it is, both ways: the client's own work is not measured.
function call() {
  const same = (bytes) => Buffer.from(bytes);
  return new Promise((done, failed) => monitor.makeUnaryRequest(ANALYZE, same, same, message,
    (error) => (error ? failed(error) : done())));
}

// User and system time of the server, in milliseconds (ticks are 10).
function cpu() {
  const fields = readFileSync(`/proc/${server.child.pid}/stat`, "utf8").split(") ")[1].split(" ");
  return (Number(fields[11]) + Number(fields[12])) * 10;
}

const took = Object.fromEntries(Object.keys(ways).map((name) => [name, []]));
for (let round = 0; round < ROUNDS; round++)
  for (const [name, way] of Object.entries(ways)) {
    const before = cpu();
    for (let n = 0; n < N; n++) await way();
    took[name].push((cpu() - before) / N);
  }
for (const [name, ms] of Object.entries(took))
  console.log(name.padEnd(10), ms.sort((a, b) => a - b)[ROUNDS >> 1].toFixed(3), "ms CPU a request",
    `(${ms.map((v) => v.toFixed(3)).join(" ")})`);
agent.destroy();
monitor.close();
await server.stop();
