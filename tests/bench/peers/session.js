// One ONNX Runtime session of one thread, in a process of its own: run() computes
// on the caller's thread, so that two sessions in one process take turns.
'use strict';
const { ort } = require('../../onnx/runtime.js');

(async () => {
  const session = await ort.InferenceSession.create(process.argv[2], {
    intraOpNumThreads: 1, interOpNumThreads: 1, executionMode: 'sequential',
    graphOptimizationLevel: 'all' });
  let feed, repeat;
  process.on('message', async (m) => {
    if (m !== 'go') {
      feed = { images: new ort.Tensor('uint8', m.data, m.dims) };
      repeat = m.repeat;
    } else {
      for (let i = 0; i < repeat; i++) await session.run(feed);
    }
    process.send('done');
  });
})();
