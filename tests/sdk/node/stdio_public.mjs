// The public stdio servers, run by the agent, with both official clients.

import { readFile } from 'node:fs/promises';

import { Client as NewClient, StreamableHTTPClientTransport as NewTransport } from '@modelcontextprotocol/client';
import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import { CreateMessageRequestSchema, ElicitRequestSchema } from '@modelcontextprotocol/sdk/types.js';

import { CONNECTOR, GATEWAY, check, done } from './common.mjs';
import { OPTIONS, SAMPLE } from './mcp_checks.mjs';

const url = (service) => new URL(`${GATEWAY}/mcp/${CONNECTOR}/${service}`);
const text = (result) => result.content.map((part) => part.text ?? '').join('\n');

async function connect(service, capabilities = {}) {
  const transport = new StreamableHTTPClientTransport(url(service), OPTIONS);
  const client = new Client({ name: 'test', version: '1' }, { capabilities });
  if (capabilities.sampling) client.setRequestHandler(CreateMessageRequestSchema, () => SAMPLE);
  if (capabilities.elicitation) client.setRequestHandler(ElicitRequestSchema, () => ({ action: 'decline' }));
  await client.connect(transport);
  const call = async (name, args = {}, options = {}) => text(await client.callTool({ name, arguments: args }, undefined, options));
  return { client, call, transport };
}

// server-everything: tools, progress, and what it asks its client.
const everything = await connect('everything', { sampling: {}, elicitation: {} });
check((await everything.call('echo', { message: 'täglich 💧' })).includes('täglich 💧'), 'echo');
check((await everything.call('get-sum', { a: 40, b: 2 })).includes('42'), 'a sum');
const environment = JSON.parse(await everything.call('get-env'));
check(Object.keys(environment).sort().join() === 'GREETING,HOME,PATH', 'its environment', environment);
check(environment.GREETING === 'hello', 'a variable', environment);
const steps = [];
await everything.call('trigger-long-running-operation', { duration: 0.4, steps: 4 }, { onprogress: (step) => steps.push(step.progress) });
check(steps.join() === '1,2,3,4', 'progress in order', steps);
const sampled = await everything.call('trigger-sampling-request', { prompt: 'The capital of France?' });
check(sampled.includes('Paris'), 'sampling', sampled);
const elicited = await everything.call('trigger-elicitation-request');
check(/declin/i.test(elicited), 'elicitation', elicited);
await everything.transport.terminateSession();
await everything.client.close();

// server-filesystem: what it may reach is said by its arguments.
const files = await connect('files');
const folder = process.env.FOLDER;
await files.call('write_file', { path: `${folder}/note.txt`, content: 'a culvert' });
check((await readFile(`${folder}/note.txt`, 'utf8')) === 'a culvert', 'a written file');
check((await files.call('read_text_file', { path: `${folder}/note.txt` })).includes('a culvert'), 'a file');
check(/denied/i.test(await files.call('read_text_file', { path: '/etc/passwd' })), 'nothing outside');
await files.client.close();

// server-memory: one process for all sessions.
const [one, other] = [await connect('memory'), await connect('memory')];
await one.call('create_entities', { entities: [{ name: 'culvert', entityType: 'tunnel', observations: ['carries a stream'] }] });
check((await other.call('read_graph')).includes('carries a stream'), 'the memory that sessions share');
await Promise.all([one.client.close(), other.client.close()]);

// A client of both eras finds out that these servers have sessions.
const transport = new NewTransport(url('everything'), OPTIONS);
const client = new NewClient({ name: 'test', version: '1' }, { versionNegotiation: { mode: 'auto' } });
await client.connect(transport);
check(client.getNegotiatedProtocolVersion() === '2025-11-25', 'the protocol', client.getNegotiatedProtocolVersion());
const echoed = await client.callTool({ name: 'echo', arguments: { message: 'again' } });
check(text(echoed).includes('again'), 'echo', echoed);
await client.close();
done('stdio_public');
