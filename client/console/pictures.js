// Pictures on their way to the server: from a camera, a clip or a file.
import { h } from './dom.js';

let aligned = false; // what the reader says of the pictures, on every page

/** What pictures are sent as: 'frame', or 'crop' where there is no detector. */
export const inputOf = (server) =>
  aligned || (server.model && !server.model.detector) ? 'crop' : 'frame';

/** Where the reader says it; not shown where there is no choice. */
export function inputChoice(server, id) {
  const select = h('select', { id, onchange: () => { aligned = select.value === 'crop'; } },
    h('option', { value: 'frame' }, 'whole frames'), h('option', { value: 'crop' }, 'aligned faces'));
  const node = h('span', { class: 'row' }, h('label', { for: id, class: 'muted' }, 'Pictures are'), select);
  const show = () => {
    select.value = aligned ? 'crop' : 'frame';
    node.hidden = !server.model?.detector;
  };
  server.addEventListener('model', show);
  show();
  return { node, close: () => server.removeEventListener('model', show) };
}

// Where an aligned face has its eyes, nose and mouth corners, of a side of 1:
// ArcFace's template, 112 px.
const TEMPLATE = [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366],
  [41.5493, 92.3655], [70.7299, 92.2041]].map(([x, y]) => [x / 112, y / 112]);

/** The similarity from an aligned face of a side of 1 to its landmarks, as
 * [a, b, x, y]: (u, v) lies at (a u - b v + x, b u + a v + y). By least squares. */
export function alignment(landmarks) {
  const n = landmarks.length;
  const mean = (f) => landmarks.reduce((sum, _, i) => sum + f(i), 0) / n;
  const [u, v] = [mean((i) => TEMPLATE[i][0]), mean((i) => TEMPLATE[i][1])];
  const [x, y] = [mean((i) => landmarks[i].x), mean((i) => landmarks[i].y)];
  let [a, b, size] = [0, 0, 0];
  landmarks.forEach((p, i) => {
    const [du, dv] = [TEMPLATE[i][0] - u, TEMPLATE[i][1] - v];
    a += du * p.x + dv * p.y;
    b += du * p.y - dv * p.x;
    size += du * du + dv * dv;
  });
  a /= size;
  b /= size;
  return [a, b, x - a * u + b * v, y - b * u - a * v];
}

const MAX_SIDE = 960; // of what a camera sends; faces are found at half of it
const CROP_SIDE = 224;

/** Why there is no camera, for people. */
function cameraFailure(e) {
  if (e.name === 'NotAllowedError')
    return 'The browser was not allowed to use the camera. Allow it in the address bar, then start again.';
  if (e.name === 'NotFoundError' || e.name === 'OverconstrainedError')
    return 'There is no camera on this machine. Pictures and clips work without one.';
  if (e.name === 'NotReadableError')
    return 'The camera is in use by another program.';
  return `The camera does not start: ${e.message}`;
}

/** Plays the camera in video until signal is aborted, which it may be before
 * the reader has allowed it. */
export async function openCamera(video, signal) {
  if (!navigator.mediaDevices)
    throw new Error('Browsers give the camera only to pages of this machine or over HTTPS. Pictures and clips work here.');
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ audio: false,
      video: { width: { ideal: 1280 }, height: { ideal: 720 }, facingMode: 'user' } });
  } catch (e) {
    throw new Error(cameraFailure(e));
  }
  const close = () => {
    for (const track of stream.getTracks()) track.stop();
    if (video.srcObject === stream) video.srcObject = null; // else it is another's by now
  };
  try {
    signal.throwIfAborted();
    signal.addEventListener('abort', close);
    video.srcObject = stream;
    await video.play();
  } catch (e) {
    close();
    throw e;
  }
}

/** Plays a clip from a file, over and over, until signal is aborted. */
export async function openClip(video, file, signal) {
  const url = URL.createObjectURL(file);
  signal.addEventListener('abort', () => {
    video.pause();
    video.removeAttribute('src');
    video.load();
    URL.revokeObjectURL(url);
  });
  video.src = url;
  video.loop = true;
  try {
    await video.play();
  } catch {
    throw new Error(`${file.name}: this browser cannot play it.`);
  }
}

const blobOf = (canvas, type, quality) =>
  new Promise((done, failed) => canvas.toBlob((b) =>
    b ? done(b) : failed(new Error('the browser could not encode the picture')), type, quality));

/** The largest square in the middle. */
function middle(width, height) {
  const side = Math.min(width, height);
  return { x: (width - side) / 2, y: (height - side) / 2, side };
}

/** Over a picture at x, y: what of it is sent as an aligned face, and where in
 * it eyes, nose and mouth should be. */
export function drawGuide(g, x, y, width, height) {
  const m = middle(width, height);
  g.fillStyle = 'rgba(4,10,9,.62)';
  g.fillRect(x, y, m.x, height);
  g.fillRect(x + m.x + m.side, y, width - m.x - m.side, height);
  g.strokeStyle = 'rgba(255,255,255,.7)';
  g.lineWidth = m.side / 240;
  for (const [px, py] of TEMPLATE) {
    g.beginPath();
    g.arc(x + m.x + px * m.side, y + m.y + py * m.side, m.side / 24, 0, 7);
    g.stroke();
  }
}

function draw(source, width, height, crop) {
  const canvas = document.createElement('canvas');
  const at = canvas.getContext.bind(canvas);
  if (crop) {
    const m = middle(width, height);
    canvas.width = canvas.height = Math.max(32, Math.min(CROP_SIDE, m.side));
    at('2d').drawImage(source, m.x, m.y, m.side, m.side, 0, 0, canvas.width, canvas.height);
    return { canvas, scale: m.side / canvas.width, x: m.x, y: m.y };
  }
  const scale = Math.max(1, Math.max(width, height) / MAX_SIDE);
  canvas.width = Math.round(width / scale);
  canvas.height = Math.round(height / scale);
  at('2d').drawImage(source, 0, 0, canvas.width, canvas.height);
  return { canvas, scale, x: 0, y: 0 };
}

/** What video shows now: {blob, place(x, y)}, place from the answer's pixels to
 * the video's. */
export async function grab(video, input) {
  const { canvas, scale, x, y } = draw(video, video.videoWidth, video.videoHeight, input === 'crop');
  const blob = input === 'crop' ? await blobOf(canvas, 'image/png')
    : await blobOf(canvas, 'image/jpeg', 0.88);
  return { blob, scale, x, y };
}

/** A picture file, as it is where the server can read it: {blob, image, scale,
 * x, y}; image is for drawing. */
export async function load(file, input) {
  let image;
  try {
    image = await createImageBitmap(file);
  } catch {
    throw new Error(`${file.name}: this is not a picture that the browser can read.`);
  }
  const known = file.type === 'image/jpeg' || file.type === 'image/png';
  const square = image.width === image.height && image.width >= 32;
  if (known && (input !== 'crop' || square))
    return { blob: file, image, scale: 1, x: 0, y: 0 };
  const { canvas, scale, x, y } = draw(image, image.width, image.height, input === 'crop');
  return { blob: await blobOf(canvas, 'image/png'), image, scale, x, y };
}

export const isClip = (file) => file.type.startsWith('video/');
