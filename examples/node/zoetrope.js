// A client of Zoetrope: what to send, and what the answers mean. docs/api.md has the fields and the events.
import { fileURLToPath } from 'node:url';

import grpc from '@grpc/grpc-js';
import protoLoader from '@grpc/proto-loader';

const PROTO = fileURLToPath(new URL('./inference.proto', import.meta.url));
const MODEL = 'image_to_video';

/** What the server says with an `error` event, or gRPC with a status. */
export class RequestFailed extends Error {
  constructor({ code, status, message, ...details }) {
    super(message);
    Object.assign(this, { name: 'RequestFailed', code, status, details });
  }
}

/** A connection to HOST:PORT; plain text unless grpc.credentials.createSsl(...) is given. */
export function connect(url, credentials = grpc.credentials.createInsecure()) {
  const definition = protoLoader.loadSync(PROTO, { keepCase: true, longs: Number, defaults: true });
  const { inference } = grpc.loadPackageDefinition(definition);
  return new inference.GRPCInferenceService(url, credentials, {
    // The pieces of a video are small, decoded frames are not.
    'grpc.max_receive_message_length': -1,
    'grpc.max_send_message_length': -1,
  });
}

/**
 * Yields the events of one request: those of docs/api.md as they are, and `{type: 'preview', image}`,
 * `{type: 'frames', shape, data}` and `{type: 'fragment', data}` for what comes beside them. `done` is the last.
 *
 * Leaving the loop or aborting `signal` cancels the request on the server.
 *
 * @param {object} client from `connect`
 * @param {Buffer} image an encoded JPEG, PNG or WebP
 * @param {object} request the fields of docs/api.md, such as {seed: 7, preview_every: 5}
 */
export async function* stream(client, image, request = {}, { signal } = {}) {
  signal?.throwIfAborted(); // or its listener would never hear of it
  // The server does not see gRPC's deadline, so the request says it too.
  const seconds = request.deadline_s;
  const options = seconds === undefined ? {} : { deadline: Date.now() + 1000 * seconds };
  const call = client.ModelStreamInfer(new grpc.Metadata(), options);
  const cancel = () => call.cancel();
  signal?.addEventListener('abort', cancel, { once: true });
  call.write(encode(image, { version: 1, ...request }));
  call.end();
  let last;
  try {
    for await (const message of call) {
      for (const event of decode(message)) {
        if (['done', 'error'].includes(event.type)) last = event; // and the stream ends by itself
        if (event.type !== 'error') yield event;
      }
    }
  } catch (error) {
    if (!last) throw error instanceof RequestFailed ? error : fromStatus(error);
  } finally {
    signal?.removeEventListener('abort', cancel);
    if (!last) call.cancel();
  }
  if (last?.type === 'error') throw new RequestFailed(last);
  if (!last) throw new RequestFailed({ code: 'connection_lost', message: 'the stream ended too early' });
}

function encode(image, request) {
  const contents = [image, Buffer.from(JSON.stringify(request))];
  return {
    model_name: MODEL,
    inputs: ['image', 'request'].map((name) => ({ name, datatype: 'BYTES', shape: [1] })),
    raw_input_contents: contents.map((content) => {
      const length = Buffer.alloc(4);
      length.writeUInt32LE(content.length);
      return Buffer.concat([length, content]);
    }),
  };
}

function* decode({ error_message: failure, infer_response: response }) {
  if (failure) throw new RequestFailed({ code: 'internal', status: 'INTERNAL', message: failure });
  const tensors = Object.fromEntries(
    response.outputs.map(({ name, shape }, index) => [name, { shape, raw: response.raw_output_contents[index] }]),
  );
  const { event, preview, frames, video } = tensors;
  if (preview) yield { type: 'preview', image: preview.raw.subarray(4) };
  if (frames) yield { type: 'frames', shape: frames.shape, data: frames.raw };
  if (video) yield { type: 'fragment', data: video.raw.subarray(4) };
  if (event) {
    const { details, ...body } = JSON.parse(event.raw.subarray(4).toString());
    yield { ...details, ...body };
  }
}

/** A refusal's status message is JSON with a `code`, which a proxy may have put words before. */
function fromStatus(error) {
  const status = grpc.status[error.code] ?? 'UNKNOWN';
  const text = error.details ?? error.message;
  try {
    const body = JSON.parse(text.slice(Math.max(text.indexOf('{'), 0)));
    if (body.code) return new RequestFailed({ status, ...body });
  } catch {
    // Plain words.
  }
  return new RequestFailed({ code: status.toLowerCase(), status, message: text });
}
