// The public API, as openapi.yaml has it. Paths are relative, so that the
// console also works behind a prefix.

const KEY = 'tscaf-key';

/** What the server said no with. */
export class ApiError extends Error {
  constructor(status, body, requestId) {
    super(body?.message || `the server answered ${status}`);
    this.status = status;
    this.code = body?.code ?? '';
    this.details = body?.details ?? [];
    this.requestId = requestId;
  }
}

/** Nobody answered. */
export class ServerGone extends Error {
  constructor() {
    super('The server does not answer. Is it running, and is the network up?');
  }
}

/** Told of every answer: 'up', 'gone', 'unauthenticated' or 'forbidden'. */
export const health = new EventTarget();
const tell = (state) => health.dispatchEvent(new CustomEvent('state', { detail: state }));

export const key = {
  get: () => sessionStorage.getItem(KEY) ?? '',
  set(secret) {
    if (secret) sessionStorage.setItem(KEY, secret);
    else sessionStorage.removeItem(KEY);
  },
};

function address(path, query) {
  const q = new URLSearchParams();
  for (const [name, value] of Object.entries(query ?? {}))
    if (value !== undefined && value !== '' && value !== null) q.set(name, value);
  return q.size ? `${path}?${q}` : path;
}

async function failure(response) {
  let body = null;
  try {
    body = await response.json();
  } catch { /* some proxy's page */ }
  if (response.status === 401) tell('unauthenticated');
  if (response.status === 403) tell('forbidden');
  return new ApiError(response.status, body, response.headers.get('X-Request-Id'));
}

/** The response of one request that went well; throws ApiError or ServerGone. */
export async function send(method, path, { query, json, body, signal } = {}) {
  const headers = {};
  if (key.get()) headers.Authorization = `Bearer ${key.get()}`;
  if (json !== undefined) {
    headers['Content-Type'] = 'application/json';
    body = JSON.stringify(json);
  } else if (body) {
    headers['Content-Type'] = body.type || 'application/octet-stream';
  }
  let response;
  try {
    response = await fetch(address(path, query), { method, headers, body, signal });
  } catch (e) {
    if (signal?.aborted) throw e;
    tell('gone');
    throw new ServerGone();
  }
  if (!response.ok) throw await failure(response);
  tell('up');
  return response;
}

const read = async (...args) => (await send(...args)).json();

export const models = async (signal) => (await read('GET', 'v1/models', { signal })).models;

/** One picture (a Blob of JPEG or PNG); input is 'frame' or 'crop'. */
export const analyze = (picture, { input, topK = 3, signal }) =>
  read('POST', 'v1/analyze', { body: picture, signal,
    query: { input, top_k: topK, return: 'landmarks' } });

/** Where in a face (by its place in an answer's) a branch's answer comes from: a
 * PNG over the aligned face, as a Blob. */
export const explain = async (picture, { input, task, face, signal }) =>
  (await send('POST', 'v1/explain', { body: picture, signal, query: { input, task, face } })).blob();

export const identities = {
  list: (query, cursor, signal) =>
    read('GET', 'v1/identities', { query: { query, cursor, limit: 50 }, signal }),
  get: (id) => read('GET', `v1/identities/${id}`),
  create: (fields) => read('POST', 'v1/identities', { json: fields }),
  update: (id, fields) => read('PATCH', `v1/identities/${id}`, { json: fields }),
  remove: (id) => send('DELETE', `v1/identities/${id}`),
};

export const faces = {
  list: async (id) => (await read('GET', `v1/identities/${id}/faces`)).faces,
  enroll: (id, picture, { input, force }) =>
    read('POST', `v1/identities/${id}/faces`, { body: picture,
      query: { input, force: force ? 'true' : undefined } }),
  remove: (id, face) => send('DELETE', `v1/identities/${id}/faces/${face}`),
  crop: async (id, face) => (await send('GET', `v1/identities/${id}/faces/${face}/crop`)).blob(),
};

export const keys = {
  list: async () => (await read('GET', 'v1/keys')).keys,
  create: (name, role) => read('POST', 'v1/keys', { json: { name, role } }),
  remove: (id) => send('DELETE', `v1/keys/${id}`),
};

export const datasets = {
  list: async () => (await read('GET', 'v1/datasets')).datasets,
  create: (fields) => read('POST', 'v1/datasets', { json: fields }),
  upload: (id, archive) => read('POST', `v1/datasets/${id}/archive`,
    { body: new Blob([archive], { type: 'application/octet-stream' }) }),
  samples: async (id) => (await read('GET', `v1/datasets/${id}/samples`, { query: { limit: 24 } })).samples,
  addSample: (id, picture, input, label) => read('POST', `v1/datasets/${id}/samples`,
    { body: picture, query: { input, label } }),
  remove: (id) => send('DELETE', `v1/datasets/${id}`),
};

export const jobs = {
  list: async () => (await read('GET', 'v1/jobs')).jobs,
  create: (fields) => read('POST', 'v1/jobs', { json: fields }),
  losses: async (id) => (await read('GET', `v1/jobs/${id}/losses`)).losses,
  pause: (id) => send('POST', `v1/jobs/${id}/pause`),
  resume: (id) => send('POST', `v1/jobs/${id}/resume`),
  compare: (id) => read('POST', `v1/jobs/${id}/compare`),
  cancel: (id) => send('POST', `v1/jobs/${id}/cancel`),
  remove: (id) => send('DELETE', `v1/jobs/${id}`),
};

const SILENCE_MS = 45_000; // three beats of a stream without news

/** Calls fn with the job as it is, then whenever it changes, to its end or that
 * of the server, which look the same. By hand: a browser's EventSource sends no
 * key. */
export async function watch(id, fn, signal) {
  const silence = new AbortController();
  let timer = 0;
  const heard = () => {
    clearTimeout(timer);
    timer = setTimeout(() => silence.abort(new ServerGone()), SILENCE_MS);
  };
  heard();
  try {
    const response = await send('GET', `v1/jobs/${id}/events`, { signal: AbortSignal.any([signal, silence.signal]) });
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = '';
    for (;;) {
      const { value, done } = await reader.read().catch((e) => { throw signal.aborted ? e : new ServerGone(); });
      if (done) return;
      heard();
      const events = (text + value).split('\n\n');
      text = events.pop();
      for (const event of events) {
        const data = /^data: (.*)$/m.exec(event)?.[1];
        if (/^event: end$/m.test(event)) return;
        if (/^event: error$/m.test(event)) throw new ApiError(response.status, JSON.parse(data));
        if (data) fn(JSON.parse(data));
      }
    }
  } finally {
    clearTimeout(timer);
  }
}

export const versions = {
  list: models,
  activate: (version, force) => send('POST', `v1/models/${version}/activate`,
    { query: { force: force ? 'true' : undefined } }),
  rollback: () => send('POST', 'v1/models/rollback'),
  remove: (version) => send('DELETE', `v1/models/${version}`),
};

export const audit = async () => (await read('GET', 'v1/audit', { query: { limit: 20 } })).records;

export const metrics = async (signal) => (await send('GET', 'metrics', { signal })).text();

/** 'ready', or the reason why not. */
export async function readiness() {
  try {
    await send('GET', 'readyz');
    return 'ready';
  } catch (e) {
    return e.message;
  }
}
