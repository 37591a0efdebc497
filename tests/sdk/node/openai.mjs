// Every endpoint with the official openai client for Node.

import { createHash } from 'node:crypto';

import OpenAI, { toFile } from 'openai';

import { API_KEY, CONNECTOR, GATEWAY, TEXT, check, done } from './common.mjs';

const client = new OpenAI({ baseURL: `${GATEWAY}/v1`, apiKey: API_KEY, maxRetries: 0, timeout: 60_000 });
const model = `${CONNECTOR}/demo-model`;
const messages = [{ role: 'user', content: 'hello' }];

async function chats() {
  const ids = [];
  for await (const entry of client.models.list()) ids.push(entry.id);
  check(ids.includes(model), 'the model is listed', ids);
  const slashed = `${CONNECTOR}/meta-llama/Llama-3.1-8B-Instruct`;
  check((await client.models.retrieve(slashed)).id === slashed, 'a model id with slashes');

  const chat = await client.chat.completions.create({ model, messages });
  check(chat.choices[0].message.content === TEXT && chat.usage.completion_tokens === 12, 'a chat', chat);
  const stream = await client.chat.completions.create({
    model, messages, stream: true, stream_options: { include_usage: true },
  });
  let text = '';
  let usage;
  for await (const chunk of stream) {
    text += chunk.choices[0]?.delta.content ?? '';
    usage = chunk.usage ?? usage;
  }
  check(text === TEXT && usage.completion_tokens === 12, 'a streamed chat', { text, usage });
  const parameters = { type: 'object', properties: { city: { type: 'string' }, days: { type: 'integer' } } };
  const tools = [{ type: 'function', function: { name: 'weather', parameters } }];
  const called = await client.chat.completions.create({ model, messages, tools });
  check(JSON.parse(called.choices[0].message.tool_calls[0].function.arguments).days === 7, 'a tool', called);

  const completion = await client.completions.create({ model, prompt: 'hello', max_tokens: 3 });
  check(completion.choices[0].text === 'Water finds its', 'a completion', completion);
  const vectors = await client.embeddings.create({ model: `${CONNECTOR}/embed-small`, input: ['one', 'two'] });
  check(vectors.data.length === 2 && vectors.data[1].embedding.length === 8, 'embeddings', vectors);
  const judged = await client.moderations.create({ model, input: 'violence' });
  check(judged.results[0].flagged, 'moderations', judged);
}

async function responses() {
  const made = await client.responses.create({ model, input: 'hello' });
  check(made.output_text === TEXT, 'a response', made);
  const deltas = [];
  for await (const event of await client.responses.create({ model, input: 'hello', stream: true })) {
    if (event.type === 'response.output_text.delta') deltas.push(event.delta);
  }
  check(deltas.join('') === TEXT && deltas.length === 12, 'a streamed response', deltas);
  check((await client.responses.retrieve(made.id)).output_text === TEXT, 'a kept response');
  const items = await client.responses.inputItems.list(made.id);
  check(items.data[0].content[0].text === 'hello', 'its input', items.data);
  check((await client.responses.cancel(made.id)).status === 'cancelled', 'a cancelled response');
  await client.responses.delete(made.id);
  const gone = await client.responses.retrieve(made.id).catch((error) => error);
  check(gone instanceof OpenAI.NotFoundError, 'a deleted response', gone);
}

async function media() {
  const voice = `${CONNECTOR}/voice`;
  const sound = Buffer.alloc(3_000_000, '\r\n--\r\n\0\x01');
  const digest = createHash('sha256').update(sound).digest('hex');
  const spoken = await client.audio.speech.create({ model: voice, voice: 'alloy', input: 'x'.repeat(50) });
  const bytes = Buffer.from(await spoken.arrayBuffer());
  check(bytes.length === 50 * 4096 && bytes.every((byte, index) => byte === index % 251), 'speech', bytes.length);
  const file = () => toFile(sound, 'speech.wav', { type: 'audio/wav' });
  const text = await client.audio.transcriptions.create({ model: voice, file: await file() });
  check(text.text === `speech.wav ${sound.length} ${digest}`, 'a transcription', text);
  const events = [];
  const streamed = await client.audio.transcriptions.create({ model: voice, file: await file(), stream: true });
  for await (const event of streamed) events.push(event.type);
  check(events.at(-1) === 'transcript.text.done' && events.length === 4, 'a streamed transcription', events);

  const image = `${CONNECTOR}/image-small`;
  const shown = (answer) => JSON.parse(Buffer.from(answer.data[0].b64_json, 'base64').toString());
  const made = await client.images.generate({ model: image, prompt: 'a culvert', n: 2 });
  check(made.data.length === 2 && shown(made) === 'a culvert', 'images', made);
  const png = await toFile(sound, 'a.png', { type: 'image/png' });
  const edited = await client.images.edit({ model: image, image: png, prompt: 'more water' });
  check(shown(edited).sha256 === digest, 'an edited image', shown(edited));
  const varied = await client.images.createVariation({ model: image, image: png });
  check(shown(varied).sha256 === digest, 'a variation', shown(varied));
}

async function errors() {
  const stranger = new OpenAI({ baseURL: `${GATEWAY}/v1`, apiKey: `cvk_${'A'.repeat(43)}`, maxRetries: 0 });
  const refused = await stranger.chat.completions.create({ model, messages }).catch((error) => error);
  check(refused instanceof OpenAI.AuthenticationError && refused.code === 'invalid_key', 'a bad key', refused);
  const unknown = await client.chat.completions.create({ model: 'dev/none', messages }).catch((error) => error);
  check(unknown instanceof OpenAI.NotFoundError && unknown.code === 'model_not_found', 'an unknown model', unknown);
  const busy = await client.chat.completions
    .create({ model: `${CONNECTOR}/fault-429`, messages }).catch((error) => error);
  check(busy instanceof OpenAI.RateLimitError && busy.headers.get('retry-after') === '7', 'a busy backend', busy);
  const body = { model, messages, stream: true, fixture: { fault: 'cut', after: 4 } };
  let cut;
  try {
    for await (const _ of await client.chat.completions.create(body));
  } catch (error) {
    cut = error;
  }
  check(cut?.code === 'answer_cut', 'a stream that is cut', cut);

  const leaving = await client.chat.completions.create({ ...body, fixture: { tokens: 10_000 } });
  for await (const _ of leaving) break;
}

await chats();
await responses();
await media();
await errors();
done('openai');
