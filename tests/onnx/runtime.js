// ONNX Runtime beside tscaf-model: pictures in, named floats out, of either.
'use strict';
const { execFileSync } = require('child_process');
const fs = require('fs');
const path = require('path');
const ort = require('onnxruntime-node');

// Bytes of n pictures [n, side, side, 3], always the same ones.
function pictures(n, side) {
  const data = new Uint8Array(n * side * side * 3);
  let seed = 1;
  for (let i = 0; i < data.length; i++) {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    data[i] = seed >>> 24;
  }
  return data;
}

function writeSafetensors(file, n, side, data) {
  let header = JSON.stringify({ images: {
    dtype: 'U8', shape: [n, side, side, 3], data_offsets: [0, data.length] } });
  header = header.padEnd(Math.ceil(header.length / 8) * 8);
  const size = Buffer.alloc(8);
  size.writeBigUInt64LE(BigInt(header.length));
  fs.writeFileSync(file, Buffer.concat([size, Buffer.from(header), data]));
}

// All are float32: what tscaf-model run writes.
function readSafetensors(file) {
  const bytes = fs.readFileSync(file);
  const n = Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.subarray(8, 8 + n).toString());
  const tensors = {};
  for (const [name, t] of Object.entries(header)) {
    if (name === '__metadata__') continue;
    const part = bytes.subarray(8 + n + t.data_offsets[0], 8 + n + t.data_offsets[1]);
    tensors[name] = new Float32Array(part.length / 4);
    for (let i = 0; i < tensors[name].length; i++) tensors[name][i] = part.readFloatLE(4 * i);
  }
  return tensors;
}

const open = (file, threads) => ort.InferenceSession.create(file, {
  intraOpNumThreads: threads, interOpNumThreads: 1, executionMode: 'sequential',
  graphOptimizationLevel: 'all', logSeverityLevel: 3 });

// What tscaf-model run answers: outputs by name.
function ours(tool, model, n, side, data, folder) {
  const file = path.join(folder, 'images.safetensors'), out = path.join(folder, 'out.safetensors');
  writeSafetensors(file, n, side, data);
  execFileSync(tool, ['run', '--input', 'bytes', model, file, out], { stdio: 'pipe' });
  return readSafetensors(out);
}

// The network's own input: bytes as they are, or one colour after the other.
function feed(session, n, side, data) {
  const input = session.inputMetadata[0];
  if (input.type === 'uint8')
    return { [input.name]: new ort.Tensor('uint8', data, [n, side, side, 3]) };
  const planes = new Float32Array(data.length);
  for (let k = 0; k < n; k++)
    for (let i = 0; i < side * side; i++)
      for (let c = 0; c < 3; c++)
        planes[(k * 3 + c) * side * side + i] = data[(k * side * side + i) * 3 + c];
  return { [input.name]: new ort.Tensor('float32', planes, [n, 3, side, side]) };
}

// How far the answers of tscaf-model to model, and of ONNX Runtime to file, are
// apart at most, as a share of each output's size. One picture at a time there:
// many networks are exported for one.
async function apart(tool, model, file, folder) {
  const N = 2, session = await open(file, 1);
  let worst = 0;
  try {
    const side = Number(session.inputMetadata[0].shape[2]), data = pictures(N, side);
    const here = ours(tool, model, N, side, data, folder);
    for (let k = 0; k < N; k++) {
      const one = data.subarray(k * side * side * 3, (k + 1) * side * side * 3);
      const there = await session.run(feed(session, 1, side, one));
      for (const name of session.outputNames) {
        const b = there[name].data, a = here[name]?.subarray(k * b.length, (k + 1) * b.length);
        if (a?.length !== b.length) throw new Error(`${name}: ${a?.length} numbers, not ${b.length}`);
        const size = Math.hypot(...b) / Math.sqrt(b.length);
        if (!(size > 0)) throw new Error(`${name} is all zeros: nothing is compared`);
        for (let i = 0; i < b.length; i++) {
          const off = Math.abs(a[i] - b[i]) / size;
          if (!(off <= worst)) worst = off; // NaN stays
        }
      }
    }
  } finally {
    await session.release();
  }
  return worst;
}

module.exports = { apart, open, ort, pictures };
