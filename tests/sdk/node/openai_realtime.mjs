// Realtime conversations with the official openai client for Node. It speaks to TLS only: to the link port, which serves the edge too.

import OpenAI from 'openai';
import { OpenAIRealtimeWebSocket } from 'openai/realtime/websocket';
import { OpenAIRealtimeWS } from 'openai/realtime/ws';

import { API_KEY, CONNECTOR, check, done, later, within } from './common.mjs';

// The certificate is of the gateway's own authority, which nothing here knows.
process.env.NODE_TLS_REJECT_UNAUTHORIZED = '0';
const client = new OpenAI({ baseURL: `https://${process.env.LINKS}/v1`, apiKey: API_KEY, maxRetries: 0 });
const model = `${CONNECTOR}/voice`;

async function converse(what, realtime) {
  const { told, tell } = later();
  realtime.on('error', (error) => check(false, what, String(error)));
  realtime.on('session.created', () => realtime.send({ type: 'response.create' }));
  realtime.on('response.done', tell);
  const last = await within(what, told);
  check(last.response.status === 'completed', what, last);
  realtime.close();
}

await converse('realtime over ws', new OpenAIRealtimeWS({ model }, client));
// A browser's WebSocket sends no headers: the key travels as a sub-protocol.
const browser = { model, dangerouslyAllowBrowser: true };
await converse('realtime as in a browser', new OpenAIRealtimeWebSocket(browser, client));
done('openai_realtime');
