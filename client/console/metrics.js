// Prometheus's text format, read as far as the server writes it.

/** [{name, labels: {}, value}] of the text. */
export function parse(text) {
  const out = [];
  for (const line of text.split('\n')) {
    const m = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$/.exec(line);
    if (!m) continue;
    const labels = {};
    for (const [, name, value] of (m[2] ?? '').matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g))
      labels[name] = value;
    out.push({ name: m[1], labels, value: m[3] === '+Inf' ? Infinity : Number(m[3]) });
  }
  return out;
}

const fits = (sample, labels) =>
  Object.entries(labels).every(([name, value]) => sample.labels[name] === value);

/** The sum over all samples of a name with these labels. */
export const total = (samples, name, labels = {}) =>
  samples.filter((x) => x.name === name && fits(x, labels)).reduce((sum, x) => sum + x.value, 0);

/** A histogram's buckets, not cumulative: [{le, n}]. */
export function buckets(samples, name, labels = {}) {
  const sums = new Map();
  for (const x of samples)
    if (x.name === `${name}_bucket` && fits(x, labels)) {
      const le = x.labels.le === '+Inf' ? Infinity : Number(x.labels.le);
      sums.set(le, (sums.get(le) ?? 0) + x.value);
    }
  let before = 0;
  return [...sums].sort((a, b) => a[0] - b[0]).map(([le, n]) => {
    const bucket = { le, n: n - before };
    before = n;
    return bucket;
  });
}

/** The q-quantile, linear within its bucket, as Prometheus does it. */
export function quantile(list, q) {
  const all = list.reduce((sum, b) => sum + b.n, 0);
  let seen = 0;
  let low = 0;
  if (!all) return NaN;
  for (const { le, n } of list) {
    if (seen + n >= q * all)
      return le === Infinity ? low : low + ((le - low) * (q * all - seen)) / (n || 1);
    seen += n;
    low = le;
  }
  return low;
}
