// Server CPU per Analyze of one crop: the same bytes over REST, Connect,
// gRPC-Web and gRPC, in many short turns, since machines are busy.
// PROGRAMS=build/release node tests/rpc/bench.js [ROUNDS]
import { readFileSync, readdirSync } from "node:fs";
import { Agent, request } from "node:http";

import { create, toBinary } from "@bufbuild/protobuf";
import grpc from "@grpc/grpc-js";

import { AnalyzeRequestSchema, InputKind } from "./gen/es/tscaf_pb.js";
import { Server } from "./server.js";

const N = 100; // a turn
const ROUNDS = Number(process.argv[2] ?? 15);
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

// Milliseconds that the server's threads ran, and those of its loop: the
// scheduler's own count, since /proc/PID/stat samples in ticks of 10 ms.
function cpu() {
  const tasks = `/proc/${server.child.pid}/task`, ran = { all: 0, loop: 0 };
  for (const task of readdirSync(tasks)) {
    const ms = Number(readFileSync(`${tasks}/${task}/schedstat`, "utf8").split(" ")[0]) / 1e6;
    ran.all += ms;
    if (Number(task) === server.child.pid) ran.loop = ms;
  }
  return ran;
}

const took = Object.fromEntries(Object.keys(ways).map((name) => [name, { all: [], loop: [] }]));
for (const way of Object.values(ways)) for (let n = 0; n < N; n++) await way();
for (let round = 0; round < ROUNDS; round++)
  for (const [name, way] of Object.entries(ways)) {
    const before = cpu();
    for (let n = 0; n < N; n++) await way();
    const after = cpu();
    for (const what of ["all", "loop"]) took[name][what].push((after[what] - before[what]) / N);
  }
// Median, and the middle half.
const middle = (list) => [2, 1, 3].map((quarter) =>
  list.sort((a, b) => a - b)[Math.floor((list.length - 1) * quarter / 4)].toFixed(3));
console.log("ms CPU a request:        all (quartiles)          loop (quartiles)");
for (const [name, { all, loop }] of Object.entries(took)) {
  const [[a, a1, a3], [l, l1, l3]] = [middle(all), middle(loop)];
  console.log(name.padEnd(20), `${a} (${a1} to ${a3})   ${l} (${l1} to ${l3})`);
}
agent.destroy();
monitor.close();
await server.stop();
