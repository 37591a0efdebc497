// Sessions up to 2025-11-25 with the official client 1.x.

import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import {
  CreateMessageRequestSchema, ElicitRequestSchema, LoggingMessageNotificationSchema,
  ResourceUpdatedNotificationSchema, ToolListChangedNotificationSchema,
} from '@modelcontextprotocol/sdk/types.js';

import { MCP_URL, check, done, later, within } from './common.mjs';
import { FORM, NOTES, OPTIONS, SAMPLE, basics, cancels, progress } from './mcp_checks.mjs';

const transport = new StreamableHTTPClientTransport(MCP_URL, OPTIONS);
const client = new Client({ name: 'test', version: '1' }, { capabilities: { sampling: {}, elicitation: {} } });
const call = (params, options) => client.callTool(params, undefined, options);

const logged = [];
const [updated, changed] = [later(), later()];
client.setRequestHandler(CreateMessageRequestSchema, () => SAMPLE);
client.setRequestHandler(ElicitRequestSchema, () => FORM);
client.setNotificationHandler(LoggingMessageNotificationSchema, (note) => logged.push(note.params.data));
client.setNotificationHandler(ResourceUpdatedNotificationSchema, (note) => updated.tell(note.params.uri));
client.setNotificationHandler(ToolListChangedNotificationSchema, () => changed.tell(true));

await client.connect(transport);
check(transport.protocolVersion === '2025-11-25', 'the protocol', transport.protocolVersion);
check(transport.sessionId, 'a session');
await client.ping();
await client.setLoggingLevel('info');
await basics(client);
await progress(call);
await call({ name: 'test_tool_with_logging', arguments: {} });
check(logged.join() === 'begun,at work,finished', 'logs in order', logged);

const sampled = await call({ name: 'test_sampling', arguments: { prompt: 'The capital of France?' } });
check(sampled.content[0].text.includes('Paris'), 'sampling', sampled);
const elicited = await call({ name: 'test_elicitation', arguments: { message: 'Who?' } });
check(elicited.content[0].text.includes('ada@example.com'), 'elicitation', elicited);

await client.subscribeResource({ uri: NOTES });
await call({ name: 'touch', arguments: { uri: NOTES } });
check((await within('a subscribed resource', updated.told)) === NOTES, 'a subscribed resource');
await call({ name: 'test_trigger_tool_change', arguments: {} });
await within('a changed list of tools', changed.told);
await cancels(call);

// A second session sees none of the first; ended, it is gone.
const other = new StreamableHTTPClientTransport(MCP_URL, OPTIONS);
const stranger = new Client({ name: 'other', version: '1' });
await stranger.connect(other);
check(other.sessionId !== transport.sessionId, 'a session of its own');
const ended = other.sessionId;
await other.terminateSession();
const late = await fetch(MCP_URL, {
  method: 'POST',
  headers: {
    ...OPTIONS.requestInit.headers, 'content-type': 'application/json',
    accept: 'application/json, text/event-stream', 'mcp-session-id': ended,
  },
  body: JSON.stringify({ jsonrpc: '2.0', id: 1, method: 'tools/list' }),
});
check(late.status === 404, 'a session that was ended', late.status);
await basics(client);
await client.close();
done('mcp_sdk');
