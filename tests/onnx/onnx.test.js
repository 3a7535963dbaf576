// Networks that others' tools might have written, read by tscaf-model and by ONNX
// Runtime: the same numbers, operator by operator. They are made of onnx.proto's
// own messages, not by our writer.
'use strict';
const assert = require('assert');
const { execFileSync } = require('child_process');
const fs = require('fs');
const os = require('os');
const path = require('path');
const { after, test } = require('node:test');
const { FLOAT, Network } = require('./network');
const { apart } = require('./runtime');

const tool = path.join(process.env.PROGRAMS, 'tscaf-model');
const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'tscaf-onnx-'));
after(() => fs.rmSync(folder, { recursive: true }));

// Share of an output's size: float32 has 6e-8 of it, some hundred products are
// added in another order, and Winograd's float32 is off by up to 2e-5.
const BOUND = 1e-4;

async function same(model, file = model) {
  const worst = await apart(tool, model, file, folder);
  assert.ok(worst <= BOUND, `${worst.toExponential(1)} of an output's size apart`);
}

// settings: Network's; make: builds it and returns the outputs' names.
function case_(name, make, settings) {
  test(name, async () => {
    const network = new Network(settings), outputs = make(network);
    const file = path.join(folder, 'network.onnx');
    fs.writeFileSync(file, network.encode([].concat(outputs)));
    await same(file);
  });
}

case_('Conv: bias and pads', (n) => n.conv(n.stem(), 8, 12));
case_('Conv: a stride, no bias', (n) => n.conv(n.stem(), 8, 12, { stride: 2, bias: false }));
case_('Conv: of one place', (n) => n.conv(n.stem(), 8, 24, { kernel: 1 }));
case_('Conv: five wide, without pads', (n) => n.conv(n.stem(), 8, 8, { kernel: 5, pad: 0 }));
case_('Conv: channel by channel', (n) => n.conv(n.stem(), 8, 8, { group: 8, stride: 2 }));
case_('Conv: in groups', (n) => n.conv(n.stem(), 8, 12, { group: 4 }));
case_('Conv: of the whole map', (n) => n.conv(n.stem(), 8, 5, { kernel: 16, pad: 0 }));
case_('Conv: auto_pad NOTSET, weights as float_data', (n) => n.node('Conv',
  [n.stem(), n.weight([4, 8, 1, 1], { packed: true })], { auto_pad: 'NOTSET' }));

case_('BatchNormalization: after a convolution', (n) => n.batchnorm(n.conv(n.stem(), 8, 8), 8));
case_('BatchNormalization: before a padded one', (n) => n.conv(n.batchnorm(n.stem(), 8), 8, 8));
case_('BatchNormalization: its epsilon',
  (n) => n.batchnorm(n.stem(), 8, { epsilon: { f: 0.1 } }));
case_('BatchNormalization: of a vector', (n) => n.batchnorm(n.head(n.stem(), 8, 16), 10));
case_('BatchNormalization: opset 7', (n) => n.batchnorm(n.stem(), 8), { opset: 7 });

case_('PRelu: a slope a channel', (n) => n.node('PRelu', [n.stem(), n.weight([8, 1, 1])]));
case_('PRelu: four dimensions', (n) => n.node('PRelu', [n.stem(), n.weight([1, 8, 1, 1])]));
case_('PRelu: one slope', (n) => n.node('PRelu', [n.stem(), n.weight([1])]));
case_('PRelu: of a vector', (n) => n.node('PRelu', [n.head(n.stem(), 8, 16), n.weight([10])]));
case_('Relu', (n) => n.node('Relu', [n.stem()]));
case_('LeakyRelu', (n) => n.node('LeakyRelu', [n.stem()], { alpha: { f: 0.2 } }));
case_('LeakyRelu: its own slope', (n) => n.node('LeakyRelu', [n.stem()]));
case_('Sigmoid', (n) => n.node('Sigmoid', [n.stem()]));
const wide = (n) => n.node('Mul', ['in', n.floats([], [1 / 16])]);
case_('Clip: limits as attributes', (n) => n.node('Clip', [n.conv(wide(n), 3, 8)],
  { min: { f: 0 }, max: { f: 6 } }), { opset: 10 });
case_('Clip: limits as inputs', (n) => n.node('Clip',
  [n.conv(wide(n), 3, 8), n.floats([], [0]), n.floats([], [6])]));
case_('Clip: below alone', (n) => n.node('Clip', [n.conv(wide(n), 3, 8), n.floats([], [0])]));

case_('Add: a residual', (n) => {
  const x = n.stem();
  return n.node('Add', [n.conv(x, 8, 8), x]);
});
case_('Sum: of three', (n) => {
  const x = n.stem();
  return n.node('Sum', [n.conv(x, 8, 8), x, n.node('Relu', [x])]);
});
case_('Concat', (n) => {
  const x = n.stem();
  return n.node('Concat', [x, n.conv(x, 8, 4), n.node('Relu', [x])], { axis: 1 });
});
for (const order of [0, 1])
  case_(`Mul: by a number a channel, ${order ? 'before' : 'after'} the map`, (n) => {
    const x = n.stem(), pooled = n.node('GlobalAveragePool', [x]);
    const squeezed = n.node('Relu', [n.conv(pooled, 8, 2, { kernel: 1 })]);
    const s = n.node('Sigmoid', [n.conv(squeezed, 2, 8, { kernel: 1 })]);
    return n.node('Mul', order ? [s, x] : [x, s]);
  });
case_('Mul: by a number a place', (n) => {
  const x = n.stem();
  return n.node('Mul', [x, n.node('Sigmoid', [n.conv(x, 8, 1, { kernel: 1 })])]);
});

case_('GlobalAveragePool, Flatten', (n) => n.node('Flatten', [n.node('GlobalAveragePool', [n.stem()])]));
case_('AveragePool: over the whole map', (n) => n.node('AveragePool', [n.stem()],
  { kernel_shape: [16, 16] }));
case_('ReduceMean: axes as an attribute', (n) => n.node('ReduceMean', [n.stem()],
  { axes: [2, 3], keepdims: 0 }));
case_('ReduceMean: from the end', (n) => n.node('ReduceMean', [n.stem()],
  { axes: [-2, -1], keepdims: 1 }));
case_('ReduceMean: axes as an input', (n) => n.node('ReduceMean', [n.stem(), n.integers([2, 3])],
  { keepdims: 0 }), { opset: 18 });

case_('Gemm: weights as they lie', (n) => n.node('Gemm', [
  n.node('Flatten', [n.stem()]), n.weight([8 * 256, 6], { size: 0.05 }), n.weight([6])]));
case_('Gemm: turned, without bias', (n) => n.node('Gemm', [
  n.node('Flatten', [n.stem()]), n.weight([6, 8 * 256], { size: 0.05 })], { transB: 1 }));
case_('MatMul: two, one on the other', (n) => n.node('MatMul', [n.node('Relu', [n.node('MatMul', [
  n.node('Flatten', [n.stem()]), n.weight([8 * 256, 6], { size: 0.05 })])]), n.weight([6, 4])]));
case_('Reshape: to a vector', (n) => n.node('Gemm', [
  n.node('Reshape', [n.stem(), n.integers([-1, 8 * 256])]), n.weight([6, 8 * 256], { size: 0.05 })],
{ transB: 1 }));
case_('Reshape: a vector to a map of one place', (n) => {
  const x = n.stem(), v = n.node('Flatten', [n.node('GlobalAveragePool', [x])]);
  const s = n.node('Sigmoid', [n.node('Gemm', [v, n.weight([8, 8])], { transB: 1 })]);
  return n.node('Mul', [x, n.node('Reshape', [s, n.integers([-1, 8, 1, 1])])]);
});
case_('Squeeze', (n) => n.node('Gemm', [n.node('Squeeze',
  [n.node('GlobalAveragePool', [n.stem()]), n.integers([2, 3])]), n.weight([6, 8])], { transB: 1 }));
case_('Dropout, Identity, Constant', (n) => {
  const x = n.node('Identity', [n.node('Dropout', [n.stem()])]);
  const slope = n.node('Constant', [], { value: n.tensor('', FLOAT, [1], Float32Array.of(0.3)) });
  return n.node('PRelu', [x, slope]);
});

// ---- from the file's own input to the picture ----

const arithmetic = (n, x, shape) => n.node('Add', [n.node('Mul', [n.node('Div', [
  n.node('Sub', [x, n.floats(shape, [120, 110, 100])]), n.floats([], [64])]),
n.floats(shape, [1.5, 1, 0.5])]), n.floats(shape, [0.1, -0.2, 0.3])]);

case_('a picture: constants a colour', (n) => n.conv(arithmetic(n, 'in', [3, 1, 1]), 3, 8));
case_('a picture: in four dimensions', (n) => n.conv(arithmetic(n, 'in', [1, 3, 1, 1]), 3, 8));
case_('a picture: other order of colours', (n) => n.conv(arithmetic(n,
  n.node('Gather', ['in', n.integers([2, 1, 0])], { axis: 1 }), [3, 1, 1]), 3, 8));
case_('a picture: normalised, then other order of colours', (n) => n.conv(n.node('Gather',
  [arithmetic(n, 'in', [3, 1, 1]), n.integers([2, 1, 0])], { axis: 1 }), 3, 8));
case_('bytes: cast, turned, normalised', (n) => n.conv(arithmetic(n,
  n.node('Transpose', [n.node('Cast', ['in'], { to: FLOAT })], { perm: [0, 3, 1, 2] }),
  [3, 1, 1]), 3, 8), { bytes: true });
case_('bytes: other order of colours, then turned', (n) => n.conv(n.node('Transpose',
  [n.node('Gather', [n.node('Cast', ['in'], { to: FLOAT }), n.integers([2, 1, 0])], { axis: 3 })],
  { perm: [0, 3, 1, 2] }), 3, 8), { bytes: true });
case_('bytes: normalised, then turned', (n) => n.conv(n.node('Transpose', [arithmetic(n,
  n.node('Cast', ['in'], { to: FLOAT }), [3])], { perm: [0, 3, 1, 2] }), 3, 8), { bytes: true });

// ---- whole embedders, in every opset that is read ----

// InsightFace's kind: BatchNorm, Conv, PRelu, residuals; and MobileFaceNet's.
function embedder(n) {
  let x = n.node('PRelu', [n.batchnorm(n.conv(n.node('Mul', [n.node('Sub', ['in',
    n.floats([], [127.5])]), n.floats([], [1 / 128])]), 3, 16, { bias: false }), 16), n.weight([16, 1, 1])]);
  let channels = 16, side = 16;
  for (const [to, stride] of [[16, 1], [24, 2], [32, 2]]) {
    let y = n.batchnorm(x, channels);
    y = n.node('PRelu', [n.batchnorm(n.conv(y, channels, to, { bias: false }), to), n.weight([to, 1, 1])]);
    y = n.batchnorm(n.conv(y, to, to, { stride, group: to, bias: false }), to);
    const short = to === channels && stride === 1 ? x
      : n.batchnorm(n.conv(x, channels, to, { kernel: 1, stride, bias: false }), to);
    x = n.node('Add', [y, short]);
    channels = to;
    side /= stride;
  }
  x = n.node('Dropout', [n.batchnorm(x, channels)]);
  return [n.batchnorm(n.head(x, channels, side, 32), 32), x];
}

for (const opset of [7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21])
  case_(`an embedder, opset ${opset}`, embedder, { opset });

const data = process.env.TSCAF_TEST_DATA || path.join(__dirname, '../../../shared/data');
const public_ = path.join(data, 'models/mobilefacenet_foamliu.onnx');
test('a public MobileFaceNet', { skip: !fs.existsSync(public_) && `no ${public_}` },
  () => same(public_));

for (const file of (process.env.NETWORKS || '').split(' ').filter(Boolean))
  test(file, () => same(file));

// ---- our own, by another engine ----

const lase = (name, head) => ({ name, module: 'lase', head });
const trees = { mobilenetv2: [{ module: 'mobilenetv2' }, lase('recognition', 'embedding')],
  iresnet18: [{ module: 'iresnet18' }, lase('recognition', 'embedding')],
  'a graph': [{ module: 'graph', ops: [{ op: 'convolution', out: 8, kernel: 7, stride: 7 }, { op: 'relu' }] },
    { name: 'recognition', module: 'graph', head: 'embedding', dim: 6, ops: [{ op: 'pool' },
      { op: 'linear', out: 6, bias: true }, { op: 'sigmoid' }, { op: 'scale', of: [2, 3] }] }] };

for (const [name, [root, recognition]] of Object.entries(trees))
  test(`${name}, exported by tscaf-model`, async () => {
    const model = path.join(folder, 'model.safetensors'), file = path.join(folder, 'own.onnx');
    const text = path.join(folder, 'spec.json');
    fs.writeFileSync(text, JSON.stringify({ input: 112, trees: [{ name: 'root', ...root,
      children: [lase('fatigue', 'binary'), recognition] }] }));
    execFileSync(tool, ['init', text, model], { stdio: 'pipe' });
    execFileSync(tool, ['export', model, file], { stdio: 'pipe' });
    await same(model, file);
  });
