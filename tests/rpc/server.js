// A tscafd of the tests' own, with a small untrained model, and drawn faces.
import { spawn, spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const programs = process.env.PROGRAMS;

function tool(...args) {
  const done = spawnSync(join(programs, "tscaf-model"), args);
  if (done.status !== 0) throw new Error(`tscaf-model ${args[0]}: ${done.stderr}`);
}

// Those that a failed test left: they would keep node from its end.
const running = new Set();

export class Server {
  dir = mkdtempSync(join(tmpdir(), "tscaf-rpc-"));

  // Starts it; resolves when it is ready.
  async start(...flags) {
    const model = join(this.dir, "model");
    tool("init", "--name", "tiny", "tests/support/tiny.json", model);
    this.child = spawn(join(programs, "tscafd"), [
      "--listen", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--data", join(this.dir, "data"),
      "--model", model, "--detector", "none",
      "--default-deadline-ms", "120000", // machines are busy
      "--job-memory", "0", // a sanitizer's shadow memory would count
      ...flags,
    ], { stdio: ["ignore", "ignore", "pipe"] });
    running.add(this);
    let log = "";
    this.ended = new Promise((done) => this.child.on("exit", done));
    this.url = await new Promise((found, lost) => {
      this.ended.then((code) => lost(new Error(`tscafd ended with ${code}: ${log}`)));
      this.child.stderr.on("data", (text) => {
        log += text;
        const m = /listens on 127\.0\.0\.1 port (\d+)/.exec(log);
        const h2 = /HTTP\/2 and gRPC: (127\.0\.0\.1) port (\d+)/.exec(log);
        if (!m || !h2) return;
        this.grpc = `${h2[1]}:${h2[2]}`;
        found(`http://127.0.0.1:${m[1]}`);
      });
    });
    for (;;) {
      if ((await fetch(this.url + "/readyz")).ok) return this;
      await new Promise((later) => setTimeout(later, 50));
    }
  }

  static killAll() {
    for (const server of running) server.child.kill("SIGKILL");
  }

  // Its exit code.
  async stop() {
    this.child.kill("SIGTERM");
    const code = await this.ended;
    running.delete(this);
    rmSync(this.dir, { recursive: true });
    return code;
  }

  face(identity, noise) {
    const path = join(this.dir, "face.png");
    tool("sample", "--identity", `${identity}`, "--noise", `${noise}`, path);
    return readFileSync(path);
  }
}
