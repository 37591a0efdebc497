// A stream that is cut in the middle of a call: the official client 1.x comes back for the rest, and nothing is done twice.

import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';

import { MCP_URL, check, done } from './common.mjs';
import { OPTIONS } from './mcp_checks.mjs';

const client = new Client({ name: 'test', version: '1' });
await client.connect(new StreamableHTTPClientTransport(MCP_URL, OPTIONS));
const steps = [];
const slow = await client.callTool({ name: 'slow', arguments: { steps: 10, step_ms: 500 } }, undefined, {
  onprogress: (step) => steps.push(step.progress),
});
check(slow.content[0].text === 'done after 10 steps', 'the answer after the cut', slow);
// The server's library begins with the last event that had arrived.
check([...new Set(steps)].join() === '1,2,3,4,5,6,7,8,9,10', 'all of the progress, in order', steps);
check(steps.length <= 11, 'nothing else twice', steps);
await client.close();
done('mcp_resume');
