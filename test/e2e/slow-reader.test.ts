import { fileURLToPath } from "node:url";
import { expect, it } from "vitest";
import { post, readStream, streaming } from "../kit/client.ts";
import { listed, startGateway, startProvider } from "../kit/nodes.ts";
import type { AimoProcess } from "../kit/process.ts";
import { chat, createUpstream, flood } from "../kit/upstream.ts";

const MIB = 1_048_576;
const READERS = 20;

const PRELOADED = { NODE_OPTIONS: `--import=${fileURLToPath(new URL("../kit/held.ts", import.meta.url))}` };

/** What a process holds: not its resident size, in which the garbage of what passed through lies for a while. bytes */
async function held(node: AimoProcess): Promise<number> {
  const told = (): RegExpMatchArray[] => [...node.stderr.matchAll(/^held (\d+)$/gm)];
  const before = told().length;
  const { promise, resolve } = Promise.withResolvers<void>();
  const look = (): void => void (told().length > before && resolve());
  node.child.stderr?.on("data", look);
  node.kill("SIGUSR2");
  await promise;
  node.child.stderr?.off("data", look);
  return Number(told().at(-1)?.[1]);
}

it("clients that stop reading a 64 MiB reply hold at most 1 MiB each on each node, stall the upstream, and disturb nobody", async () => {
  const upstream = await createUpstream();
  const gateway = await startGateway([], PRELOADED);
  const provider = await startProvider(gateway, upstream.url, [], PRELOADED);
  await listed(gateway, provider);
  const stop = async (count: number): Promise<ReturnType<typeof post>[]> => {
    upstream.next(...Array.from({ length: count }, () => flood(64 * MIB)));
    const first = upstream.requests.length;
    const readers = Array.from({ length: count }, () => post(gateway.api, streaming()));
    for (const response of await Promise.all(readers.map((reader) => reader.response))) response.pause();
    const exchanges = await Promise.all(readers.map((_, i) => upstream.request(first + i)));
    // What lies in the sockets' buffers of three connections, too, has left the upstream.
    for (const bytes of await Promise.all(exchanges.map((exchange) => exchange.stalled(1_000))))
      expect(bytes).toBeLessThan(32 * MIB);
    return readers;
  };
  // What passes through before the first ones stall fills the young generation of the heap, once.
  const stopped = await stop(READERS);
  const before = [await held(gateway), await held(provider)];
  stopped.push(...(await stop(2 * READERS)));
  const grown = [await held(gateway), await held(provider)].map((bytes, i) => bytes - (before[i] as number));

  for (const bytes of grown) expect(bytes / (2 * READERS)).toBeLessThan(1 * MIB);

  upstream.answer = chat(["still", " here"]);
  expect(readStream((await post(gateway.api, streaming()).got()).body)).toMatchObject({
    content: "still here",
    done: true,
  });

  // The ones that go on get all of it.
  (await stopped[0]?.response)?.resume();
  const { body, cut } = await (stopped[0] as ReturnType<typeof post>).got();
  expect(cut).toBe(false);
  expect(readStream(body).done).toBe(true);
  expect(body.length).toBeGreaterThanOrEqual(64 * MIB);
  for (const asked of stopped.slice(1)) asked.leave();
});
