import { Agent, request } from "node:http";
import { join } from "node:path";
import { projectFolder } from "./config.ts";
import { runAimo, startAimo, type AimoProcess } from "./process.ts";

/** What clients saw of a node that was killed again and again. */
export interface Seen {
  /** Ids of the calls whose answer came to its end. */
  readonly ended: ReadonlySet<string>;
  readonly kills: number;
}

export interface Booked {
  readonly id: string;
  readonly call: string;
  readonly target: string;
}

/** A node with a ledger, as a process that can be started again on the same data dir. `store`: a plugin before the ledger. */
export function ledgerNode({ imports = "", store = "" } = {}): {
  readonly folder: string;
  readonly start: () => Promise<AimoProcess>;
} {
  // `createNode` alone: it is there in half the time of the command.
  const source = `import { createNode } from "aimo";
import { admin, http, openaiApi } from "aimo/frontends";
import { ledger } from "aimo/observers";
import { demo } from "aimo/providers";
${imports}
const node = await createNode({
  plugins: [${store} http({ port: 0 }), openaiApi(), admin(), demo({ delay: 0 }), ledger()],
  dataDir: ".aimo",
});
console.log(JSON.stringify({ event: "ready", api: node.use("http").url, peerId: node.id, listen: [] }));
process.once("SIGTERM", () => void node.close());
`;
  const folder = projectFolder({ "node.mjs": source });
  const start = (): Promise<AimoProcess> =>
    startAimo([], { command: [process.execPath, join(folder, "node.mjs")], cwd: folder, within: 60_000 });
  return { folder, start };
}

/** Kills it with SIGKILL so many times, each time in the middle of what several clients ask. */
export async function killed(start: () => Promise<AimoProcess>, kills: number, clients = 6): Promise<Seen> {
  const ended = new Set<string>();
  for (let n = 0; n < kills; n++) {
    const node = await start();
    const agent = new Agent({ keepAlive: true });
    let left = 1 + Math.floor(Math.random() * 40);
    const ask = async (stream: boolean): Promise<void> => {
      for (;;) {
        const id = await answer(node.api, agent, stream);
        if (id === undefined) return;
        ended.add(id);
        // Somewhere in the turn, not always at its end.
        if (--left === 0) setTimeout(() => node.kill("SIGKILL"), Math.random() * 3);
      }
    };
    await Promise.all(Array.from({ length: clients }, (_, i) => ask(i % 2 === 0)));
    agent.destroy();
    const { signal } = await node.exit;
    if (signal !== "SIGKILL") throw new Error(`The node ended by itself (${signal}): ${node.stderr}`);
  }
  return { ended, kills };
}

/** The call's id when the answer came to its end; undefined when the node is gone. */
function answer(api: string, agent: Agent, stream: boolean): Promise<string | undefined> {
  const body = JSON.stringify({ model: "demo", stream, messages: [{ role: "user", content: "Hello" }] });
  return new Promise((resolve) => {
    const asked = request(`${api}/v1/chat/completions`, {
      agent,
      method: "POST",
      headers: { "content-type": "application/json" },
    });
    const lost = (): void => resolve(undefined);
    asked.once("error", lost).once("response", (response) =>
      response
        .once("error", lost)
        .once("close", lost)
        .once("end", () => resolve(response.complete ? String(response.headers["x-request-id"]) : undefined))
        .resume(),
    );
    asked.end(body);
  });
}

/** All that the node's ledger has. */
export async function exported(folder: string): Promise<Booked[]> {
  const { code, stdout, stderr } = await runAimo(["usage", "--export", "--node", join(folder, ".aimo")]);
  if (code !== 0) throw new Error(stderr);
  const [, ...rows] = stdout.trimEnd().split("\n");
  return rows.map((line) => JSON.parse(line) as Booked);
}
