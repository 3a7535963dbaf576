// Small ONNX networks, in the messages of onnx.proto itself.
'use strict';
const { onnx } = require('onnx-proto');

const FLOAT = onnx.TensorProto.DataType.FLOAT, INT64 = onnx.TensorProto.DataType.INT64;
const UINT8 = onnx.TensorProto.DataType.UINT8;
const T = onnx.AttributeProto.AttributeType;

function attribute(name, v) {
  if (v instanceof onnx.TensorProto) return { name, type: T.TENSOR, t: v };
  if (typeof v === 'string') return { name, type: T.STRING, s: Buffer.from(v) };
  if (Array.isArray(v)) return { name, type: T.INTS, ints: v };
  // { f: 1 } is a float, a plain number an integer.
  return typeof v === 'object' ? { name, type: T.FLOAT, f: v.f } : { name, type: T.INT, i: v };
}

class Network {
  // bytes: the input is [N,H,W,3] uint8, else [N,3,H,W] float32.
  constructor({ opset = 17, side = 16, bytes = false } = {}) {
    this.opset = opset;
    this.nodes = [];
    this.tensors = [];
    this.n = 0;
    this.seed = 7;
    const dims = bytes ? [side, side, 3] : [3, side, side];
    this.input = { name: 'in', type: { tensorType: { elemType: bytes ? UINT8 : FLOAT,
      shape: { dim: [{ dimParam: 'N' }, ...dims.map((d) => ({ dimValue: d }))] } } } };
  }

  noise() {
    this.seed = (Math.imul(this.seed, 1664525) + 1013904223) >>> 0;
    return (this.seed >>> 8 & 0xffff) / 32768 - 1;
  }

  tensor(name, type, dims, raw) {
    return onnx.TensorProto.create({ name, dims, dataType: type, rawData: Buffer.from(raw.buffer) });
  }

  // Weights around `middle`; packed: as float_data, which other writers use.
  weight(dims, { size = 1, middle = 0, packed = false } = {}) {
    const count = dims.reduce((a, b) => a * b, 1), name = `w${this.tensors.length}`;
    const v = Float32Array.from({ length: count }, () => middle + size * this.noise());
    this.tensors.push(packed
      ? onnx.TensorProto.create({ name, dims, dataType: FLOAT, floatData: v })
      : this.tensor(name, FLOAT, dims, v));
    return name;
  }

  floats(dims, values) {
    const name = `w${this.tensors.length}`;
    this.tensors.push(this.tensor(name, FLOAT, dims, Float32Array.from(values)));
    return name;
  }

  integers(values) {
    const name = `w${this.tensors.length}`;
    this.tensors.push(this.tensor(name, INT64, [values.length], BigInt64Array.from(values, BigInt)));
    return name;
  }

  // Returns the name of what the node makes.
  node(op, inputs, attributes = {}) {
    const out = `t${this.n++}`;
    this.nodes.push({ opType: op, input: inputs, output: [out],
      attribute: Object.entries(attributes).map(([k, v]) => attribute(k, v)) });
    return out;
  }

  conv(x, from, to, { kernel = 3, stride = 1, pad = kernel >> 1, group = 1, bias = true } = {}) {
    const fan = from / group * kernel * kernel;
    const inputs = [x, this.weight([to, from / group, kernel, kernel], { size: Math.sqrt(3 / fan) })];
    if (bias) inputs.push(this.weight([to], { size: 0.5 }));
    return this.node('Conv', inputs, { kernel_shape: [kernel, kernel], strides: [stride, stride],
      pads: [pad, pad, pad, pad], group });
  }

  batchnorm(x, channels, attributes = {}) {
    return this.node('BatchNormalization', [x, this.weight([channels], { middle: 1, size: 0.4 }),
      this.weight([channels], { size: 0.5 }), this.weight([channels], { size: 0.5 }),
      this.weight([channels], { middle: 1, size: 0.6 })], attributes);
  }

  // [N,8,16,16] of about 1 from the picture's bytes.
  stem() {
    const small = this.node('Mul', ['in', this.floats([], [1 / 128])]);
    return this.conv(small, 3, 8);
  }

  // [N,to] from [N,from,side,side].
  head(x, from, side, to = 10) {
    const flat = this.node('Flatten', [x], { axis: 1 }), fan = from * side * side;
    return this.node('Gemm', [flat, this.weight([to, fan], { size: Math.sqrt(3 / fan) }),
      this.weight([to])], { transB: 1 });
  }

  encode(outputs) {
    const shapeless = (name) => ({ name, type: { tensorType: { elemType: FLOAT } } });
    return onnx.ModelProto.encode(onnx.ModelProto.create({
      irVersion: 8, opsetImport: [{ domain: '', version: this.opset }],
      graph: { name: 'made', node: this.nodes, initializer: this.tensors,
        input: [this.input], output: outputs.map(shapeless) },
    })).finish();
  }
}

module.exports = { FLOAT, Network };
