// node generate.js photo.jpg video.mp4 [--url HOST:PORT] [--request '{"seed": 7}'] [--preview newest.webp]
// Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
import { readFile, rename, rm, writeFile } from 'node:fs/promises';
import { parseArgs } from 'node:util';

import { connect, stream } from './zoetrope.js';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    url: { type: 'string', default: process.env.ZOETROPE_URL ?? '127.0.0.1:8001' },
    request: { type: 'string', default: '{}' },
    preview: { type: 'string' },
  },
});
if (positionals.length !== 2) {
  console.error('usage: node generate.js PICTURE VIDEO [--url HOST:PORT] [--request JSON] [--preview FILE]');
  process.exit(2);
}
const [picture, output] = positionals;
const stop = new AbortController();
process.once('SIGINT', () => stop.abort());

const client = connect(values.url);
try {
  const request = { ...(values.preview ? { preview_every: 1 } : {}), ...JSON.parse(values.request) };
  const pieces = [];
  for await (const event of stream(client, await readFile(picture), request, { signal: stop.signal })) {
    switch (event.type) {
      case 'progress':
        console.error(`${event.stage} ${event.step}/${event.steps}`);
        break;
      case 'heartbeat':
        console.error(`waiting, ${event.waiting} before this one`);
        break;
      case 'warning':
        console.error(`warning: ${event.message}`);
        break;
      case 'preview':
        if (values.preview) await writeWhole(values.preview, event.image);
        break;
      case 'fragment':
        pieces.push(event.data);
        break;
      case 'done':
        await writeWhole(output, Buffer.concat(pieces));
        console.log(JSON.stringify({ output, seed: event.seed, timings: event.timings }));
    }
  }
} catch (error) {
  console.error(stop.signal.aborted ? 'interrupted, the request is cancelled' : `failed: ${error.message}`);
  process.exitCode = stop.signal.aborted ? 130 : 1;
} finally {
  client.close();
}

/** The file appears whole or not at all. */
async function writeWhole(path, data) {
  const partial = `${path}.${process.pid}.part`;
  try {
    await writeFile(partial, data);
    await rename(partial, path);
  } catch (error) {
    await rm(partial, { force: true });
    throw error;
  }
}
