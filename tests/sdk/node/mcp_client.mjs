// Both eras with the official client 2.x: MODE is auto or legacy.

import { Client, StreamableHTTPClientTransport } from '@modelcontextprotocol/client';

import { MCP_URL, check, done, later, within } from './common.mjs';
import { FORM, NOTES, OPTIONS, SAMPLE, basics, cancels, progress } from './mcp_checks.mjs';

const mode = process.env.MODE;
const transport = new StreamableHTTPClientTransport(MCP_URL, OPTIONS);
const client = new Client(
  { name: 'test', version: '1' },
  { capabilities: { sampling: {}, elicitation: {} }, versionNegotiation: { mode } },
);
const call = (params, options) => client.callTool(params, options);

const [updated, changed] = [later(), later()];
client.setRequestHandler('sampling/createMessage', () => SAMPLE);
client.setRequestHandler('elicitation/create', () => FORM);
client.setNotificationHandler('notifications/resources/updated', (note) => updated.tell(note.params.uri));
client.setNotificationHandler('notifications/tools/list_changed', () => changed.tell(true));

await client.connect(transport);
const expected = mode === 'legacy' ? '2025-11-25' : '2026-07-28';
check(client.getNegotiatedProtocolVersion() === expected, 'the protocol', client.getNegotiatedProtocolVersion());
await basics(client);
await progress(call);

// In a session the server asks back; without one its answer says what it needs, and the client calls again.
const tools = mode === 'legacy'
  ? ['test_sampling', 'test_elicitation']
  : ['test_input_required_result_sampling', 'test_input_required_result_elicitation'];
const sampled = await call({ name: tools[0], arguments: { prompt: 'The capital of France?' } });
check(sampled.content[0].text.includes('Paris'), 'sampling', sampled);
const elicited = await call({ name: tools[1], arguments: { message: 'Who?' } });
check(/ada/i.test(elicited.content[0].text), 'elicitation', elicited);

const subscription = mode === 'legacy'
  ? await client.subscribeResource({ uri: NOTES })
  : await client.listen({ toolsListChanged: true, resourceSubscriptions: [NOTES] });
await call({ name: 'touch', arguments: { uri: NOTES } });
check((await within('a subscribed resource', updated.told)) === NOTES, 'a subscribed resource');
await call({ name: 'test_trigger_tool_change', arguments: {} });
await within('a changed list of tools', changed.told);
if (mode !== 'legacy') {
  await subscription.close();
  check((await within('the end of a subscription', subscription.closed)) === 'local', 'who ended it');
}
await cancels(call);
await basics(client);
if (mode === 'legacy') await transport.terminateSession();
await client.close();
done(`mcp_client ${mode}`);
